"""Fitted scales need to know the length."""

from __future__ import annotations

from lgbench.claims.claim import Claim, above
from lgbench.claims.quantities import value
from lgbench.claims.rathjens._settings import LONG, PAPER, long_trained
from lgbench.claims.remedies._settings import MAMBAEXTEND

RIGHT = long_trained(128, "mambaextend")

CLAIM = Claim(
    id="scaling_needs_length",
    source=f"{MAMBAEXTEND}, and {PAPER}, on rough estimates",
    statement="Scales that were fitted for half or twice the length are worse than those fitted for the "
    "length itself.",
    parts=(
        *(
            above(value(long_trained(128, f"mambaextend[fit_at={factor}]"), 4096) - value(RIGHT, 4096))
            for factor in (0.5, 2.0)
        ),
    ),
    inferred="images instead of language; the second paper supposes that a rough estimate is enough, the "
    "opposite",
    conditions=LONG,
)
