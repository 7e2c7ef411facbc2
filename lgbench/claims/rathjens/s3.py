"""S3: short training adapts faster."""

from __future__ import annotations

from lgbench.claims.claim import Claim, below
from lgbench.claims.quantities import reading
from lgbench.claims.rathjens._settings import LONG, PAPER, long_trained

SHORTER, LONGER = long_trained(128), long_trained(512)

CLAIM = Claim(
    id="S3",
    source=f"{PAPER}, Fig. 5 left",
    statement="The time until both images weigh equally is shorter for the smaller L_train.",
    parts=(
        below(
            reading("image_switch", "half_adaptation_tokens", SHORTER)
            - reading("image_switch", "half_adaptation_tokens", LONGER)
        ),
    ),
    inferred="which models; the statistic",
    conditions=LONG,
)
