"""Q3: the order of the quadrants changes both models, in different ways."""

from __future__ import annotations

from lgbench.claims.claim import Claim, below
from lgbench.claims.quantities import reading
from lgbench.claims.rathjens._settings import LONG, PAPER, long_trained

SHORTER, LONGER = long_trained(128), long_trained(512)

CLAIM = Claim(
    id="Q3",
    source=f"{PAPER}, Fig. 4",
    statement="When the character comes second, the model with the smaller L_train blurs and the other "
    "loses contrast.",
    parts=(
        below(reading("quadrants", "blur_ratio", SHORTER) - reading("quadrants", "blur_ratio", LONGER)),
        below(
            reading("quadrants", "contrast_ratio", LONGER) - reading("quadrants", "contrast_ratio", SHORTER)
        ),
    ),
    inferred="which model does which; ratios of the second to the first scan order, of gradient energy "
    "and of contrast",
    conditions=LONG,
)
