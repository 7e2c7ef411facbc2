"""Mamba loses the passkey at 16 times its training length."""

from __future__ import annotations

from lgbench.claims.claim import Claim, below
from lgbench.claims.quantities import value
from lgbench.claims.remedies._settings import DECIMAMBA, SMALL, passkey

CLAIM = Claim(
    id="vanilla_passkey",
    source=f"{DECIMAMBA}, passkey retrieval",
    statement="Mamba loses most passkeys from 16 times its training length on.",
    parts=(*(below(value(passkey(), far, "accuracy"), 0.5) for far in (32768, 131072)),),
    inferred="that most means half",
    conditions=SMALL,
)
