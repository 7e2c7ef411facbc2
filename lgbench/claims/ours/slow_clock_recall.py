"""The constant that mends images breaks recall."""

from __future__ import annotations

from lgbench.claims.claim import Claim, below
from lgbench.claims.ours._settings import marked_recall
from lgbench.claims.quantities import value

CLAIM = Claim(
    id="slow_clock_recall",
    source="our own",
    statement="slow_clock breaks marked recall: its accuracy at 4 and 16 L_train is below vanilla’s.",
    parts=(
        *(
            below(
                value(marked_recall("slow_clock"), far, "accuracy") - value(marked_recall(), far, "accuracy")
            )
            for far in (1024, 4096)
        ),
    ),
)
