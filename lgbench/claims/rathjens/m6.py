"""M6: depth lowers the error, not the length of failure."""

from __future__ import annotations

from lgbench.claims.claim import Claim, below, within
from lgbench.claims.quantities import log2_failure, value
from lgbench.claims.rathjens._settings import GRID, LONG, PAPER, long_trained

SHALLOW, DEEP = long_trained(128, num_layers=2, words="2 layers"), long_trained(128)

CLAIM = Claim(
    id="M6",
    source=f"{PAPER}, Fig. 2 left",
    statement="Depth lowers the error substantially and hardly moves the length at which the model fails.",
    parts=(
        below(value(DEEP, 128) - 0.8 * value(SHALLOW, 128)),
        within(log2_failure(DEEP, GRID) - log2_failure(SHALLOW, GRID), -1, 1),
    ),
    inferred="8 layers against 2, at least 20 % less error, less than a factor 2 in the length of failure",
    conditions=LONG,
)
