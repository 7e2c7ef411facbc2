"""Q2: what was painted first fades in the model that was trained on short sequences."""

from __future__ import annotations

from lgbench.claims.claim import Claim, below
from lgbench.claims.quantities import reading
from lgbench.claims.rathjens._settings import LONG, PAPER, long_trained

SHORTER, LONGER = long_trained(128), long_trained(512)

CLAIM = Claim(
    id="Q2",
    source=f"{PAPER}, Fig. 4",
    statement="While three empty quadrants follow, contrast decays in the model with the smaller L_train, "
    "hardly in the other.",
    parts=(
        below(reading("quadrants", "contrast_kept", SHORTER) - reading("quadrants", "contrast_kept", LONGER)),
    ),
    inferred="which model is which, and that contrast is compared as that after four quadrants over that "
    "after one",
    conditions=LONG,
)
