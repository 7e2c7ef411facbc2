"""Scorecard of published claims, and of our own: one file a claim, judged from rows alone.

    rathjens/    claims of the paper on image reconstruction (ids M, T, V, Q, S, R, X, N)
    remedies/    claims of the papers behind the methods
    ours/        claims of this project, its README included

A file defines `CLAIM`; `lgbench claims` lists all of them.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from lgbench.claims.claim import Claim
from lgbench.errors import UserError

FOLDERS = ("rathjens", "remedies", "ours")


@cache
def claims_of(folder: str) -> tuple[Claim, ...]:
    """The claims of a folder, in the order of their ids."""
    package = importlib.import_module(f"lgbench.claims.{folder}")
    names = [module.name for module in pkgutil.iter_modules(package.__path__) if module.name[0] != "_"]
    modules = (importlib.import_module(f"{package.__name__}.{name}") for name in sorted(names, key=_natural))
    return tuple(module.CLAIM for module in modules)


def all_claims() -> tuple[Claim, ...]:
    """Every claim, folder by folder."""
    return tuple(claim for folder in FOLDERS for claim in claims_of(folder))


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
    letters = name.rstrip("0123456789")
    return letters, int(name[len(letters) :] or 0)
