"""Dropped tokens bring a bigram within reach."""

from __future__ import annotations

from lgbench.claims.claim import Claim, above
from lgbench.claims.ours._settings import induction_heads
from lgbench.claims.quantities import value
from lgbench.claims.remedies._settings import DECIMAMBA, RECALL

CLAIM = Claim(
    id="decimamba_recall",
    source=f"{DECIMAMBA}, abstract",
    statement="Dropping tokens, without training for it, completes a bigram at lengths at which vanilla "
    "has lost it.",
    parts=(
        *(
            above(
                value(induction_heads("decimamba"), far, "accuracy")
                - value(induction_heads(), far, "accuracy")
            )
            for far in (16384, 131072, 1048576)
        ),
    ),
    inferred="the task and the lengths: 64 to 4,096 L_train",
    conditions=RECALL,
)
