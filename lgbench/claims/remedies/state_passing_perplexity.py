"""State passing keeps the perplexity flat."""

from __future__ import annotations

from lgbench.claims.claim import Claim, below, within
from lgbench.claims.quantities import value
from lgbench.claims.remedies._settings import SMALL, STATES, perplexity

PASSED = perplexity("state_passing", own_training=True)

CLAIM = Claim(
    id="state_passing_perplexity",
    source=f"{STATES}, position-wise perplexity",
    statement="Trained from states of other sequences, the perplexity stays flat to 16 times L_train, and "
    "below vanilla’s.",
    parts=(
        within(value(PASSED, 32768, "ln PPL") - value(PASSED, 2048, "ln PPL"), -0.05, 0.05),
        below(value(PASSED, 32768, "ln PPL") - value(perplexity(), 32768, "ln PPL")),
    ),
    inferred="flat means within 5 %; states are passed in the whole training instead of its last 500 steps",
    conditions=SMALL,
)
