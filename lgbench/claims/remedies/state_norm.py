"""States grow beyond those of training."""

from __future__ import annotations

from lgbench.claims.claim import Claim, above
from lgbench.claims.quantities import reading
from lgbench.claims.remedies._settings import SMALL, STATES, look, perplexity

CLAIM = Claim(
    id="state_norm",
    source=f"{STATES}, standard deviation of the state",
    statement="Beyond L_train the states of vanilla grow.",
    parts=(above(reading(look("state_norm", perplexity(), 1, 4), "growth of the norm"), 1.1),),
    inferred="the mean norm of the layer where it grows most, by more than 10 % from L_train to 4 L_train",
    conditions=SMALL,
)
