"""The sum of time steps grows faster than the length."""

from __future__ import annotations

from lgbench.claims.claim import Claim, above
from lgbench.claims.quantities import reading
from lgbench.claims.remedies._settings import DECIMAMBA, SMALL, passkey

CLAIM = Claim(
    id="sum_of_steps",
    source=f"{DECIMAMBA}, sum of Δ",
    statement="Where the passkey is lost, the sum of the time steps of some layer grows faster than the "
    "length.",
    parts=(above(reading("sum_delta", "largest_growth_exponent", passkey()), 1.0),),
    inferred="the exponent over lengths from L_train to 16 L_train",
    conditions=SMALL,
)
