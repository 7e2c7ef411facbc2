"""Slowing the decay alone makes the collapse worse."""

from __future__ import annotations

from lgbench.claims.claim import Claim, above
from lgbench.claims.quantities import value
from lgbench.claims.rathjens._settings import LENGTHS, long_trained

CLAIM = Claim(
    id="decay_alone",
    source="our own",
    statement="Slowing the decay alone is worse than vanilla at 16 L_train.",
    parts=(
        *(
            above(value(long_trained(n, "clock_law[decay=all]"), 16 * n) - value(long_trained(n), 16 * n))
            for n in LENGTHS
        ),
    ),
)
