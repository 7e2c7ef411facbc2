"""R1: short training learns fast and forgets."""

from __future__ import annotations

from lgbench.claims.claim import Claim, above, below
from lgbench.claims.quantities import reading
from lgbench.claims.rathjens._settings import LONG, PAPER, long_trained, seen

SHORTER, LONGER = seen(long_trained(128)), seen(long_trained(512))
ALL, FIRST = "error on all tokens so far", "error on the first tokens"

CLAIM = Claim(
    id="R1",
    source=f"{PAPER}, Fig. 5 right",
    statement="The model with the small L_train is the best on few seen patches, and its error on the "
    "first ones rises.",
    parts=(
        below(reading(SHORTER, ALL, 64) - reading(LONGER, ALL, 64)),
        above(reading(SHORTER, FIRST, 16 * 128) - reading(SHORTER, FIRST, 128)),
    ),
    inferred="which reading of the sentence is meant: all patches seen so far, 64 of "
    "them; and the first 128, after 128 tokens and after 16 times as many",
    conditions=LONG,
)
