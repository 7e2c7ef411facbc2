"""The sum of time steps grows faster than the length."""

from __future__ import annotations

from lgbench.claims.claim import Claim, above
from lgbench.claims.quantities import reading
from lgbench.claims.remedies._settings import DECIMAMBA, SMALL, look, passkey

CLAIM = Claim(
    id="sum_of_steps",
    source=f"{DECIMAMBA}, sum of Δ",
    statement="Where the passkey is lost, the sum of the time steps of some layer grows faster than the "
    "length.",
    parts=(above(reading(look("sum_delta", passkey(), 1, 4, 16), "largest growth exponent"), 1.0),),
    inferred="the exponent from L_train to 16 L_train, of the layer where it is largest",
    conditions=SMALL,
)
