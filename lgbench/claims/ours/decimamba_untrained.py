"""Decimation without training for it fails at once."""

from __future__ import annotations

from lgbench.claims.claim import Claim, below
from lgbench.claims.quantities import value
from lgbench.claims.remedies._settings import passkey

CLAIM = Claim(
    id="decimamba_untrained",
    source="our own",
    statement="DeciMamba without training for it finds less than 5 % of the passkeys at 2 L_train.",
    parts=(below(value(passkey("decimamba"), 4096, "accuracy"), 0.05),),
)
