"""Trained with decimation, passkeys are found farther away."""

from __future__ import annotations

from lgbench.claims.claim import Claim, above
from lgbench.claims.quantities import value
from lgbench.claims.remedies._settings import DECIMAMBA, DECIMATED, SMALL, passkey

CLAIM = Claim(
    id="decimamba_passkey",
    source=f"{DECIMAMBA}, passkey retrieval",
    statement="A model that was trained with decimation finds the passkey at lengths at which vanilla has "
    "lost it.",
    parts=(
        *(
            above(value(DECIMATED, far, "accuracy") - value(passkey(), far, "accuracy"))
            for far in (32768, 131072)
        ),
    ),
    inferred="that it shows at 16 and 64 times L_train; which layer decimates and L_base = L_train / 2",
    conditions=SMALL,
)
