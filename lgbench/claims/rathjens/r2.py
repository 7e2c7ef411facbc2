"""R2: long training goes on improving what it saw first."""

from __future__ import annotations

from lgbench.claims.claim import Claim, above, below
from lgbench.claims.quantities import reading
from lgbench.claims.rathjens._settings import LONG, PAPER, long_trained

SHORTER, LONGER = long_trained(128), long_trained(512)

CLAIM = Claim(
    id="R2",
    source=f"{PAPER}, Fig. 5 right",
    statement="In the model with the large L_train the error on the first patches falls while others arrive.",
    parts=(
        above(
            reading("seen_patches", "seen_error_at_64", LONGER)
            - reading("seen_patches", "seen_error_at_64", SHORTER)
        ),
        below(reading("seen_patches", "first_error_rise_to_train_length", LONGER)),
    ),
    inferred="which reading of the sentence is meant, and that it falls up to L_train",
    conditions=LONG,
)
