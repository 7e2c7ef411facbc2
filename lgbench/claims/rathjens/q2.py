"""Q2: what was painted first fades in the model that was trained on short sequences."""

from __future__ import annotations

from lgbench.claims.claim import Claim, below
from lgbench.claims.quantities import reading
from lgbench.claims.rathjens._settings import LONG, PAPER, by_quadrant, long_trained

SHORTER, LONGER = by_quadrant(long_trained(128)), by_quadrant(long_trained(512))
KEPT = "contrast after four / after one"

CLAIM = Claim(
    id="Q2",
    source=f"{PAPER}, Fig. 4",
    statement="While three empty quadrants follow, contrast decays in the model with the smaller L_train, "
    "hardly in the other.",
    parts=(below(reading(SHORTER, KEPT, 1024) - reading(LONGER, KEPT, 1024)),),
    inferred="which model is which, and that contrast is compared as that after four quadrants over that "
    "after one",
    conditions=LONG,
)
