"""Several short readings are worth as much as one long reading under the best remedy."""

from __future__ import annotations

from lgbench.claims.claim import Claim, below
from lgbench.claims.quantities import value
from lgbench.claims.rathjens._settings import LENGTHS, long_trained

AVERAGED = {n: long_trained(n, "averaged_windows") for n in LENGTHS}

CLAIM = Claim(
    id="averaging_windows",
    source="our own",
    statement="Averaging the answers after eight windows of L_train tokens is better than reading 32,768 "
    "tokens under slow_clock, and better than the last window alone.",
    parts=tuple(
        below(value(AVERAGED[n], 32768) - value(long_trained(n, other), 32768))
        for n in LENGTHS
        for other in ("slow_clock", "last_window")
    ),
)
