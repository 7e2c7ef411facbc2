"""S1: after a switch of images the second one wins."""

from __future__ import annotations

from lgbench.claims.claim import Claim, above, within
from lgbench.claims.quantities import reading
from lgbench.claims.rathjens._settings import LONG, PAPER, long_trained

BOTH = long_trained(256), long_trained(512)

CLAIM = Claim(
    id="S1",
    source=f"{PAPER}, Fig. 5 left",
    statement="When the image changes, the old one vanishes from the reconstruction and the new one takes "
    "over.",
    parts=(
        *(
            above(reading("image_switch", "new_at_end", m) - reading("image_switch", "old_at_end", m))
            for m in BOTH
        ),
        *(within(reading("image_switch", "old_at_end", model), -0.05, 0.05) for model in BOTH),
    ),
    inferred="vanished means a coefficient within 0.05 of 0 in the least-squares fit of both images; "
    "L_train 256 and 512, and the switch after 512 tokens instead of 16,384",
    conditions=LONG,
)
