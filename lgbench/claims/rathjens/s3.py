"""S3: short training adapts faster."""

from __future__ import annotations

from lgbench.claims.claim import Claim, below
from lgbench.claims.quantities import reading
from lgbench.claims.rathjens._settings import LONG, PAPER, long_trained, switched

SHORTER, LONGER = switched(long_trained(128)), switched(long_trained(512))
TIME = "half-adaptation time"

CLAIM = Claim(
    id="S3",
    source=f"{PAPER}, Fig. 5 left",
    statement="The time until both images weigh equally is shorter for the smaller L_train.",
    parts=(below(reading(SHORTER, TIME, 512) - reading(LONGER, TIME, 512)),),
    inferred="which models, the statistic, and the switch after 512 tokens instead of 16,384",
    conditions=LONG,
)
