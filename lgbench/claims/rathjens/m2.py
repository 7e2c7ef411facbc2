"""M2: the best length is the training length, or twice that."""

from __future__ import annotations

from math import log2

from lgbench.claims.claim import Claim, within
from lgbench.claims.quantities import log2_best
from lgbench.claims.rathjens._settings import GRID, LENGTHS, LONG, PAPER, long_trained

CLAIM = Claim(
    id="M2",
    source=f"{PAPER}, Fig. 2 left",
    statement="The error is lowest near the training length: between L_train and 2 L_train.",
    parts=tuple(within(log2_best(long_trained(n), GRID), log2(n), log2(2 * n)) for n in LENGTHS),
    inferred="the factor 2; the paper says near the training length",
    conditions=LONG,
)
