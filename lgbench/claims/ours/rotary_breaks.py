"""The rotary decoder breaks at once."""

from __future__ import annotations

from math import log

from lgbench.claims.claim import Claim, above, below
from lgbench.claims.quantities import value
from lgbench.claims.remedies._settings import perplexity, short_passkey

FINDER, WRITER = (
    task("decoder_transformer", own_training=True, backbone="decoder", d_state=None)
    for task in (short_passkey, perplexity)
)

CLAIM = Claim(
    id="rotary_breaks",
    source="our own",
    statement="A decoder with rotary positions breaks at 4 L_train: its perplexity is at least doubled, "
    "and it finds less than half of the passkeys.",
    parts=(
        above(value(WRITER, 8192, "ln PPL") - value(WRITER, 2048, "ln PPL"), log(2)),
        below(value(FINDER, 8192, "accuracy"), 0.5),
    ),
)
