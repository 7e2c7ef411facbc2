"""R2: long training goes on improving what it saw first."""

from __future__ import annotations

from lgbench.claims.claim import Claim, above, below
from lgbench.claims.quantities import reading
from lgbench.claims.rathjens._settings import LONG, PAPER, long_trained, seen

SHORTER, LONGER = seen(long_trained(128)), seen(long_trained(512))
ALL, FIRST = "error on all tokens so far", "error on the first tokens"

CLAIM = Claim(
    id="R2",
    source=f"{PAPER}, Fig. 5 right",
    statement="In the model with the large L_train the error on the first patches falls while others arrive.",
    parts=(
        above(reading(LONGER, ALL, 64) - reading(SHORTER, ALL, 64)),
        below(reading(LONGER, FIRST, 512) - reading(LONGER, FIRST, 128)),
    ),
    inferred="which reading of the sentence is meant, and that the error on the first 128 "
    "patches falls up to L_train",
    conditions=LONG,
)
