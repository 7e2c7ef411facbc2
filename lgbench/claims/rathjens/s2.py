"""S2: the faster model has forgotten the old image when the other has not."""

from __future__ import annotations

from lgbench.claims.claim import Claim, above, below
from lgbench.claims.quantities import reading
from lgbench.claims.rathjens._settings import LONG, PAPER, long_trained, switched

OLD = "share of the first picture"

CLAIM = Claim(
    id="S2",
    source=f"{PAPER}, Fig. 5 left",
    statement="A model that was trained on shorter sequences has forgotten the old image when the other "
    "still shows it.",
    parts=(
        below(reading(switched(long_trained(256)), OLD, 256, "at 512"), 0.02),
        above(reading(switched(long_trained(512)), OLD, 256, "at 512"), 0.02),
    ),
    inferred="the limit 0.02, which model is the faster one, and 256 of 512 tokens after the switch "
    "instead of 8,192 of 16,384",
    conditions=LONG,
)
