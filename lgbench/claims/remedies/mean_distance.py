"""How far a layer reads stays where training left it."""

from __future__ import annotations

import math

from lgbench.claims.claim import Claim, below
from lgbench.claims.quantities import Quantity, reading
from lgbench.claims.remedies._settings import DECIMAMBA, L_TRAIN, SMALL, look, passkey

READ = look("mean_distance", passkey(), 1, 4, 16)


def at(multiple: int) -> Quantity:
    """Mean distance at a multiple of L_train."""
    return reading(READ, "mean distance", multiple * L_TRAIN)


CLAIM = Claim(
    id="mean_distance",
    source=f"{DECIMAMBA}, effective receptive field",
    statement="The mean distance that a model reads over does not grow with the length beyond training.",
    parts=(below((1 / math.log(16)) * (at(16).log() - at(1).log()), 0.5),),
    inferred="that the exponent from L_train to 16 L_train is below 0.5, on the mean over layers",
    conditions=SMALL,
)
