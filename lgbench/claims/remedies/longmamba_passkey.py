"""Filtered tokens find passkeys farther away."""

from __future__ import annotations

from lgbench.claims.claim import Claim, above
from lgbench.claims.quantities import value
from lgbench.claims.remedies._settings import LONGMAMBA, SMALL, passkey

CLAIM = Claim(
    id="longmamba_passkey",
    source=f"{LONGMAMBA}, abstract",
    statement="Filtering the tokens that global channels read, without training, finds the passkey at "
    "lengths at which vanilla has lost it.",
    parts=(
        *(
            above(value(passkey("longmamba"), far, "accuracy") - value(passkey(), far, "accuracy"))
            for far in (16384, 32768, 65536, 131072)
        ),
    ),
    inferred="the task and the lengths: 8 to 64 times L_train",
    conditions=SMALL,
)
