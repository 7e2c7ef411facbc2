"""What lies beyond the last L_train tokens is used."""

from __future__ import annotations

from lgbench.claims.claim import Claim, below
from lgbench.claims.quantities import value
from lgbench.claims.rathjens._settings import long_trained

CLAIM = Claim(
    id="beyond_the_window",
    source="our own",
    statement="slow_clock, clock_law and mambaextend use what lies beyond the last L_train tokens: at 32 "
    "L_train and more their error is below that of last_window.",
    parts=(
        *(
            below(value(long_trained(256, method), far) - value(long_trained(256, "last_window"), far))
            for method in ("slow_clock", "clock_law", "mambaextend")
            for far in (8192, 32768)
        ),
    ),
)
