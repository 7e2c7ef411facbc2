"""Scorecard of published claims, and of our own: one file a claim, judged from rows alone.

    rathjens/    claims of the paper on image reconstruction (ids M, T, V, Q, S, R, X, N)
    remedies/    claims of the papers behind the methods
    ours/        claims of this project, its README included

A file defines `CLAIM`; `lgbench claims` lists all of them.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from functools import cache

from lgbench.claims.claim import Claim
from lgbench.errors import UserError

FOLDERS = ("rathjens", "remedies", "ours")


@cache
def all_claims() -> tuple[Claim, ...]:
    """Every claim, folder by folder, in the order of their ids."""
    found = []
    for folder in FOLDERS:
        package = importlib.import_module(f"lgbench.claims.{folder}")
        names = [module.name for module in pkgutil.iter_modules(package.__path__) if module.name[0] != "_"]
        modules = [
            importlib.import_module(f"lgbench.claims.{folder}.{name}") for name in sorted(names, key=_natural)
        ]
        found += [module.CLAIM for module in modules]
    return tuple(found)


def find_claim(name: str) -> Claim:
    """The claim with this id, in upper or lower case.

    Raises:
        UserError: there is none.
    """
    known = {claim.id.lower(): claim for claim in all_claims()}
    if name.lower() not in known:
        raise UserError(f"no claim '{name}'. Known: {', '.join(claim.id for claim in known.values())}")
    return known[name.lower()]


def _natural(name: str) -> tuple[str, int]:
    letters, digits = re.fullmatch(r"(\D*)(\d*)", name).groups()
    return letters, int(digits or 0)
