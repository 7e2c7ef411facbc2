"""Noise is a poorer start than states."""

from __future__ import annotations

from lgbench.claims.claim import Claim, above
from lgbench.claims.quantities import value
from lgbench.claims.remedies._settings import SMALL, STATES, perplexity

NOISE = perplexity("state_passing[source=noise]", own_training=True)
PASSED = perplexity("state_passing", own_training=True)

CLAIM = Claim(
    id="state_noise",
    source=f"{STATES}, position-wise perplexity",
    statement="Training from random states carries less far than training from states of other sequences.",
    parts=(above(value(NOISE, 32768, "ln PPL") - value(PASSED, 32768, "ln PPL")),),
    inferred="the noise (standard deviation 1) and the length",
    conditions=SMALL,
)
