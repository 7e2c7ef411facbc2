"""One law for all lengths undoes the collapse."""

from __future__ import annotations

from lgbench.claims.claim import Claim, below
from lgbench.claims.quantities import value
from lgbench.claims.rathjens._settings import LENGTHS, long_trained

CLAIM = Claim(
    id="clock_law_images",
    source="our own",
    statement="clock_law undoes the collapse for every L_train: its error at 32,768 tokens is below "
    "vanilla’s and at most 10 % above vanilla’s at L_train.",
    parts=(
        *(below(value(long_trained(n, "clock_law"), 32768) - value(long_trained(n), 32768)) for n in LENGTHS),
        *(
            below(value(long_trained(n, "clock_law"), 32768) - 1.1 * value(long_trained(n), n))
            for n in LENGTHS
        ),
    ),
)
