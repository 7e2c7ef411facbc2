"""States grow beyond those of training."""

from __future__ import annotations

from lgbench.claims.claim import Claim, above
from lgbench.claims.quantities import reading
from lgbench.claims.remedies._settings import SMALL, STATES, perplexity

CLAIM = Claim(
    id="state_norm",
    source=f"{STATES}, standard deviation of the state",
    statement="Beyond L_train the states of vanilla grow.",
    parts=(above(reading("state_norm", "growth_from_train_length", perplexity()), 1.1),),
    inferred="by more than 10 % from L_train to 4 L_train",
    conditions=SMALL,
)
