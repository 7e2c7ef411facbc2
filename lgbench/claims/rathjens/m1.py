"""M1: the error falls up to L_train."""

from __future__ import annotations

from lgbench.claims.claim import Claim, below
from lgbench.claims.quantities import value
from lgbench.claims.rathjens._settings import GRID, LENGTHS, LONG, PAPER, long_trained

CLAIM = Claim(
    id="M1",
    source=f"{PAPER}, Fig. 2 left",
    statement="The error falls with every doubling of the context up to L_train, for every L_train.",
    parts=tuple(
        below(value(long_trained(n), 2 * length) - value(long_trained(n), length))
        for n in LENGTHS
        for length in GRID
        if 2 * length <= n
    ),
    inferred="that the figure's curves start at 16 tokens or less, and fall at every doubling",
    conditions=LONG,
)
