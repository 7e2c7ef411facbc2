"""Scaling the decay helps recall more than scaling the steps."""

from __future__ import annotations

from lgbench.claims.claim import Claim, above
from lgbench.claims.ours._settings import marked_recall, mqar
from lgbench.claims.quantities import value
from lgbench.claims.remedies._settings import MODULATION, RECALL

CLAIM = Claim(
    id="modulation_recall",
    source=f"{MODULATION}, abstract",
    statement="On recall over a distance, scaling the spectrum of the transition carries farther than "
    "scaling the time steps.",
    parts=(
        *(
            above(
                value(task("mambamodulation"), times * task().train_length, "accuracy")
                - value(task("mambaextend"), times * task().train_length, "accuracy")
            )
            for task in (marked_recall, mqar)
            for times in (16, 32)
        ),
    ),
    inferred="the tasks and the lengths: 16 and 32 L_train",
    conditions=RECALL,
)
