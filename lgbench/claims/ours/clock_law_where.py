"""Slowing the clocks in the context alone is better."""

from __future__ import annotations

from lgbench.claims.claim import Claim, below
from lgbench.claims.quantities import value
from lgbench.claims.rathjens._settings import LENGTHS, long_trained

CLAIM = Claim(
    id="clock_law_where",
    source="our own",
    statement="Both clocks slowed in the context alone are better at 16 L_train than slowed in the "
    "queries too.",
    parts=(
        *(
            below(
                value(long_trained(n, "clock_law[write=all,decay=all,where=context]"), 16 * n)
                - value(long_trained(n, "clock_law[write=all,decay=all]"), 16 * n)
            )
            for n in LENGTHS
        ),
    ),
)
