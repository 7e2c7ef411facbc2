"""One law for all lengths extends recall."""

from __future__ import annotations

from lgbench.claims.claim import Claim, above
from lgbench.claims.ours._settings import marked_recall
from lgbench.claims.quantities import value

CLAIM = Claim(
    id="clock_law_recall",
    source="our own",
    statement="clock_law extends marked recall: its accuracy at 4 and 16 L_train is above vanilla’s.",
    parts=(
        *(
            above(
                value(marked_recall("clock_law"), far, "accuracy") - value(marked_recall(), far, "accuracy")
            )
            for far in (1024, 4096)
        ),
    ),
)
