"""The loss of the context hardly matters to the passkey."""

from __future__ import annotations

from lgbench.claims.claim import Claim, within
from lgbench.claims.quantities import value
from lgbench.claims.remedies._settings import short_passkey

ALONE = short_passkey(lm_weight=0.0, words="digits alone", eval_lengths=tuple(2048 << k for k in range(7)))

CLAIM = Claim(
    id="answer_alone",
    source="our own",
    statement="Training on the digits alone changes the accuracy at 16 L_train by less than 0.05.",
    parts=(within(value(ALONE, 32768, "accuracy") - value(short_passkey(), 32768, "accuracy"), -0.05, 0.05),),
)
