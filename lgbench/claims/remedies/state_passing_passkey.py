"""Training from passed states finds passkeys farther away."""

from __future__ import annotations

from lgbench.claims.claim import Claim, above
from lgbench.claims.quantities import value
from lgbench.claims.remedies._settings import SMALL, STATES, passkey

PASSED = passkey("state_passing[last_steps=500]", own_training=True)

CLAIM = Claim(
    id="state_passing_passkey",
    source=f"{STATES}, passkey",
    statement="Trained from states of earlier sequences in its last steps, a model finds passkeys at "
    "lengths at which vanilla has lost them.",
    parts=(
        *(
            above(value(PASSED, far, "accuracy") - value(passkey(), far, "accuracy"))
            for far in (32768, 65536, 131072)
        ),
    ),
    inferred="the lengths, 16 to 64 L_train, and 500 of 3,000 steps",
    conditions=SMALL,
)
