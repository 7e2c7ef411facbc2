"""How far a layer reads stays where training left it."""

from __future__ import annotations

from lgbench.claims.claim import Claim, below
from lgbench.claims.quantities import reading
from lgbench.claims.remedies._settings import DECIMAMBA, SMALL, passkey

CLAIM = Claim(
    id="mean_distance",
    source=f"{DECIMAMBA}, effective receptive field",
    statement="The mean distance that a model reads over does not grow with the length beyond training.",
    parts=(below(reading("mean_distance", "growth_exponent", passkey()), 0.5),),
    inferred="the exponent from L_train to 16 L_train, and its limit",
    conditions=SMALL,
)
