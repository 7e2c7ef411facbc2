"""M7: more state than 8 brings nothing."""

from __future__ import annotations

from lgbench.claims.claim import Claim, above, within, within_percent
from lgbench.claims.quantities import log2_failure, value
from lgbench.claims.rathjens._settings import GRID, LONG, PAPER, long_trained

SMALL, LARGE = (long_trained(128, d_state=size, words=f"{size} states") for size in (2, 32))
BASE = long_trained(128)

CLAIM = Claim(
    id="M7",
    source=f"{PAPER}, Fig. 2 left",
    statement="A smaller state is worse in range, a larger one brings nothing, and neither moves the "
    "length at which the model fails.",
    parts=(
        above(value(SMALL, 128) - value(BASE, 128)),
        within_percent(value(LARGE, 128), value(BASE, 128), 10),
        *(within(log2_failure(other, GRID) - log2_failure(BASE, GRID), -1, 1) for other in (SMALL, LARGE)),
    ),
    inferred="states of 2, 8 and 32; nothing means less than 10 % of the error, and not moved means less "
    "than a factor 2",
    conditions=LONG,
)
