"""Scaled time steps find passkeys farther away."""

from __future__ import annotations

from lgbench.claims.claim import Claim, above
from lgbench.claims.quantities import value
from lgbench.claims.remedies._settings import EXTENDED, MAMBAEXTEND, SMALL, passkey

CLAIM = Claim(
    id="mambaextend_passkey",
    source=f"{MAMBAEXTEND}, passkey table",
    statement="Scales fitted to the time steps of each layer find the passkey at lengths at which vanilla "
    "has lost it.",
    parts=(
        *(
            above(value(EXTENDED, far, "accuracy") - value(passkey(), far, "accuracy"))
            for far in (32768, 131072)
        ),
    ),
    inferred="that it shows at 16 and 64 times L_train; one scale a layer, fitted at every length",
    conditions=SMALL,
)
