"""After short training nothing collapses."""

from __future__ import annotations

from lgbench.claims.claim import Claim, above, below
from lgbench.claims.quantities import chance, value
from lgbench.claims.rathjens._settings import short_trained

CLAIM = Claim(
    id="short_no_collapse",
    source="our own",
    statement="After 20,000 steps the error rises by at least 5 % from L_train to 32 L_train and stays "
    "below two thirds of chance.",
    parts=(
        above(value(short_trained(), 32768) - 1.05 * value(short_trained(), 1024)),
        below(value(short_trained(), 32768) - (2 / 3) * chance(short_trained(), 32768)),
    ),
)
