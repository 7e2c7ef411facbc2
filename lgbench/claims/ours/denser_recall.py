"""Where the mark recurs, the constant does no harm."""

from __future__ import annotations

from lgbench.claims.claim import Claim, above
from lgbench.claims.ours._settings import marked_recall
from lgbench.claims.quantities import value

CLAIM = Claim(
    id="denser_recall",
    source="our own",
    statement="Where the mark comes again every 256 tokens, so that more context is denser, slow_clock "
    "loses at most 0.05 of accuracy at 4 and 16 L_train.",
    parts=(
        *(
            above(
                value(marked_recall("slow_clock", 256), far, "accuracy")
                - value(marked_recall(repeats=256), far, "accuracy"),
                -0.05,
            )
            for far in (1024, 4096)
        ),
    ),
)
