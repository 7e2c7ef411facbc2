"""One law for all lengths finds passkeys farther away."""

from __future__ import annotations

from lgbench.claims.claim import Claim, above
from lgbench.claims.quantities import value
from lgbench.claims.remedies._settings import passkey

CLAIM = Claim(
    id="clock_law_passkey",
    source="our own",
    statement="clock_law is above vanilla on passkey at 8 and 16 L_train.",
    parts=(
        *(
            above(value(passkey("clock_law"), far, "accuracy") - value(passkey(), far, "accuracy"))
            for far in (16384, 32768)
        ),
    ),
)
