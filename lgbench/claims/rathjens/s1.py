"""S1: after a switch of images the second one wins."""

from __future__ import annotations

from lgbench.claims.claim import Claim, above, within
from lgbench.claims.quantities import Quantity, reading
from lgbench.claims.rathjens._settings import LONG, PAPER, long_trained, switched
from lgbench.claims.readings import Look

BOTH = switched(long_trained(256)), switched(long_trained(512))


def at_end(look: Look, which: str) -> Quantity:
    """Share of an image in the painting, 512 tokens after the switch."""
    return reading(look, f"share of the {which} picture", 512, "at 512")


CLAIM = Claim(
    id="S1",
    source=f"{PAPER}, Fig. 5 left",
    statement="When the image changes, the old one vanishes from the reconstruction and the new one takes "
    "over.",
    parts=(
        *(above(at_end(look, "second") - at_end(look, "first")) for look in BOTH),
        *(within(at_end(look, "first"), -0.05, 0.05) for look in BOTH),
    ),
    inferred="vanished means a coefficient within 0.05 of 0 in the least-squares fit of both images; "
    "L_train 256 and 512, and the switch after 512 tokens instead of 16,384",
    conditions=LONG,
)
