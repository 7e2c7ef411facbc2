"""Reading the end alone undoes the collapse."""

from __future__ import annotations

from lgbench.claims.claim import Claim, below
from lgbench.claims.quantities import chance, value
from lgbench.claims.rathjens._settings import LENGTHS, long_trained

USED = {n: long_trained(n, "last_window") for n in LENGTHS}

CLAIM = Claim(
    id="last_window_rescue",
    source="our own",
    statement="Reading the last L_train tokens alone undoes the collapse: at 32,768 tokens the error is "
    "below vanilla’s, below chance, and at most 10 % above vanilla’s at L_train.",
    parts=(
        *(below(value(USED[n], 32768) - value(long_trained(n), 32768)) for n in LENGTHS),
        *(below(value(USED[n], 32768) - chance(USED[n], 32768)) for n in LENGTHS),
        *(below(value(USED[n], 32768) - 1.1 * value(long_trained(n), n)) for n in LENGTHS),
    ),
)
