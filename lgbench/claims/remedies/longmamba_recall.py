"""Filtered tokens keep several pairs."""

from __future__ import annotations

from lgbench.claims.claim import Claim, above
from lgbench.claims.ours._settings import mqar
from lgbench.claims.quantities import value
from lgbench.claims.remedies._settings import LONGMAMBA, RECALL

CLAIM = Claim(
    id="longmamba_recall",
    source=f"{LONGMAMBA}, abstract",
    statement="Filtering the tokens that global channels read keeps pairs of key and value at lengths at "
    "which vanilla has lost them.",
    parts=(
        *(
            above(
                value(mqar("longmamba[table_up_to=4096.0]"), far, "accuracy") - value(mqar(), far, "accuracy")
            )
            for far in (2048, 4096, 8192)
        ),
    ),
    inferred="the task and the lengths: 16 to 64 L_train",
    conditions=RECALL,
)
