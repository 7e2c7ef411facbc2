"""Passed states cost near L_train."""

from __future__ import annotations

from lgbench.claims.claim import Claim, below
from lgbench.claims.quantities import value
from lgbench.claims.remedies._settings import passkey

PASSED = passkey("state_passing[last_steps=500]", own_training=True)

CLAIM = Claim(
    id="state_passing_near",
    source="our own",
    statement="State passing in the last 500 steps costs passkeys at 4 L_train.",
    parts=(below(value(PASSED, 8192, "accuracy") - value(passkey(), 8192, "accuracy")),),
)
