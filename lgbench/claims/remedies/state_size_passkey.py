"""A larger state carries passkeys farther."""

from __future__ import annotations

from lgbench.claims.claim import Claim, above
from lgbench.claims.quantities import value
from lgbench.claims.remedies._settings import SMALL, STUFFED, passkey

CLAIM = Claim(
    id="state_size_passkey",
    source=f"{STUFFED}, abstract",
    statement="The length at which a passkey is still found grows with the size of the state.",
    parts=(
        above(
            value(passkey(d_state=64, words="64 states"), 32768, "accuracy")
            - value(passkey(), 32768, "accuracy")
        ),
        above(
            value(passkey(), 32768, "accuracy")
            - value(passkey(d_state=4, words="4 states"), 32768, "accuracy")
        ),
    ),
    inferred="states of 4, 16 and 64, Mamba-1 instead of Mamba-2, and equal training lengths",
    conditions=SMALL,
)
