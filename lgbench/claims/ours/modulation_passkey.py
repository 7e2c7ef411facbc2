"""Scaling the decay finds passkeys farther away."""

from __future__ import annotations

from lgbench.claims.claim import Claim, above
from lgbench.claims.quantities import value
from lgbench.claims.remedies._settings import short_passkey

MODULATED = short_passkey("mambamodulation[steps=20,items=8]")

CLAIM = Claim(
    id="modulation_passkey",
    source="our own",
    statement="MambaModulation is above vanilla on passkey at every length from 8 to 64 L_train.",
    parts=(
        *(
            above(value(MODULATED, far, "accuracy") - value(short_passkey(), far, "accuracy"))
            for far in (16384, 32768, 65536, 131072)
        ),
    ),
)
