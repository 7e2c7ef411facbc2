"""Q1: the first quadrant is reconstructed by both models."""

from __future__ import annotations

from lgbench.claims.claim import Claim, above
from lgbench.claims.quantities import reading
from lgbench.claims.rathjens._settings import LONG, PAPER, by_quadrant, long_trained

SHORTER, LONGER = long_trained(128), long_trained(512)

CLAIM = Claim(
    id="Q1",
    source=f"{PAPER}, Fig. 4",
    statement="When the character comes in the first quadrant, both models reconstruct it after that "
    "quadrant.",
    parts=(
        *(
            above(reading(by_quadrant(model), "correlation", 1024, "order A after 256"), 0.8)
            for model in (SHORTER, LONGER)
        ),
    ),
    inferred="a correlation above 0.8, and 256 tokens a quadrant",
    conditions=LONG,
)
