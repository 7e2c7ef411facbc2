"""R1: short training learns fast and forgets."""

from __future__ import annotations

from lgbench.claims.claim import Claim, above, below
from lgbench.claims.quantities import reading
from lgbench.claims.rathjens._settings import LONG, PAPER, long_trained

SHORTER, LONGER = long_trained(128), long_trained(512)

CLAIM = Claim(
    id="R1",
    source=f"{PAPER}, Fig. 5 right",
    statement="The model with the small L_train is the best on few seen patches, and its error on the "
    "first ones rises.",
    parts=(
        below(
            reading("seen_patches", "seen_error_at_64", SHORTER)
            - reading("seen_patches", "seen_error_at_64", LONGER)
        ),
        above(reading("seen_patches", "first_error_rise", SHORTER)),
    ),
    inferred="which reading of the sentence is meant: all patches seen so far, and the first 128 of them",
    conditions=LONG,
)
