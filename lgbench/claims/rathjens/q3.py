"""Q3: the order of the quadrants changes both models, in different ways."""

from __future__ import annotations

from lgbench.claims.claim import Claim, below
from lgbench.claims.quantities import reading
from lgbench.claims.rathjens._settings import LONG, PAPER, by_quadrant, long_trained

SHORTER, LONGER = by_quadrant(long_trained(128)), by_quadrant(long_trained(512))
SHARP, STRONG = "sharpness of B / of A", "contrast of B / of A"

CLAIM = Claim(
    id="Q3",
    source=f"{PAPER}, Fig. 4",
    statement="When the character comes second, the model with the smaller L_train blurs and the other "
    "loses contrast.",
    parts=(
        below(reading(SHORTER, SHARP, 1024) - reading(LONGER, SHARP, 1024)),
        below(reading(LONGER, STRONG, 1024) - reading(SHORTER, STRONG, 1024)),
    ),
    inferred="which model does which; ratios of the second to the first scan order, of gradient energy "
    "over variance and of contrast",
    conditions=LONG,
)
