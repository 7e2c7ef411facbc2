"""The constant that mends images breaks the passkey."""

from __future__ import annotations

from lgbench.claims.claim import Claim, below
from lgbench.claims.quantities import value
from lgbench.claims.remedies._settings import passkey

CLAIM = Claim(
    id="slow_clock_passkey",
    source="our own",
    statement="slow_clock is below vanilla on passkey at 8 and 16 L_train.",
    parts=(
        *(
            below(value(passkey("slow_clock"), far, "accuracy") - value(passkey(), far, "accuracy"))
            for far in (16384, 32768)
        ),
    ),
)
