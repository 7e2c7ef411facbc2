"""V2: on few tokens, short training gives higher contrast."""

from __future__ import annotations

from lgbench.claims.claim import Claim, above
from lgbench.claims.quantities import reading
from lgbench.claims.rathjens._settings import LONG, PAPER, long_trained, painted

SHORTER, LONGER = long_trained(128), long_trained(512)

CLAIM = Claim(
    id="V2",
    source=f"{PAPER}, Fig. 3",
    statement="On identical, few tokens a model that was trained on shorter sequences paints with higher "
    "contrast.",
    parts=(above(reading(painted(SHORTER), "contrast", 32) - reading(painted(LONGER), "contrast", 32)),),
    inferred="few means 32 tokens; contrast is the mean over background minus that over strokes",
    conditions=LONG,
)
