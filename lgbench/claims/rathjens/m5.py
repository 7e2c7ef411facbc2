"""M5: who trained on longer sequences is slightly worse on short ones."""

from __future__ import annotations

from itertools import pairwise

from lgbench.claims.claim import Claim, above
from lgbench.claims.quantities import value
from lgbench.claims.rathjens._settings import GRID, LENGTHS, LONG, PAPER, long_trained

CLAIM = Claim(
    id="M5",
    source=f"{PAPER}, Fig. 2 left",
    statement="On short sequences a model that was trained on longer ones has the higher error.",
    parts=tuple(
        above(value(long_trained(longer), length) - value(long_trained(shorter), length))
        for shorter, longer in pairwise(LENGTHS)
        for length in GRID
        if 4 * length <= shorter
    ),
    inferred="short means up to a quarter of the smaller L_train",
    conditions=LONG,
)
