"""Where context is longer, the window is no remedy."""

from __future__ import annotations

from lgbench.claims.claim import Claim, above
from lgbench.claims.ours._settings import induction_heads, marked_recall, mqar
from lgbench.claims.quantities import value

CLAIM = Claim(
    id="window_fails_recall",
    source="our own",
    statement="On all recall tasks vanilla is above last_window at 4 L_train.",
    parts=(
        *(
            above(
                value(task(), 4 * task().train_length, "accuracy")
                - value(task("last_window"), 4 * task().train_length, "accuracy")
            )
            for task in (marked_recall, induction_heads, mqar)
        ),
    ),
)
