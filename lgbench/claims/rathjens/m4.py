"""M4: longer training moves the best length and the length of failure."""

from __future__ import annotations

from itertools import pairwise

from lgbench.claims.claim import Claim, above
from lgbench.claims.quantities import log2_best, log2_failure
from lgbench.claims.rathjens._settings import GRID, LENGTHS, LONG, PAPER, long_trained

CLAIM = Claim(
    id="M4",
    source=f"{PAPER}, Fig. 2 left",
    statement="The best length and the length at which the model fails grow with L_train.",
    parts=tuple(
        above(turn(long_trained(longer), GRID) - turn(long_trained(shorter), GRID))
        for turn in (log2_best, log2_failure)
        for shorter, longer in pairwise(LENGTHS)
    ),
    inferred="that failure means worse than the mean image",
    conditions=LONG,
)
