"""One law for all lengths does no harm to recall."""

from __future__ import annotations

from lgbench.claims.claim import Claim, above
from lgbench.claims.ours._settings import induction_heads, marked_recall, mqar
from lgbench.claims.quantities import value

CLAIM = Claim(
    id="clock_law_not_worse",
    source="our own",
    statement="clock_law loses at most 0.05 of vanilla’s accuracy on any of the recall tasks at L_train, "
    "4 L_train and 16 L_train.",
    parts=(
        *(
            above(value(task("clock_law"), far, "accuracy") - value(task(), far, "accuracy"), -0.05)
            for task in (marked_recall, induction_heads, mqar)
            for far in (task().train_length, 4 * task().train_length, 16 * task().train_length)
        ),
    ),
)
