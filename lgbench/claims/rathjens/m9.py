"""M9: who trained with more queries is slightly worse with few."""

from __future__ import annotations

from lgbench.claims.claim import Claim, above, below
from lgbench.claims.quantities import at_queries, value
from lgbench.claims.rathjens._settings import LONG, PAPER, long_trained

FEW, MANY = long_trained(128), long_trained(128, train_queries=256, words="trained with 256 queries")
PENALTY = at_queries(MANY, 4).log() - at_queries(FEW, 4).log()
PENALTY_OF_LENGTH = value(long_trained(512), 16).log() - value(long_trained(128), 16).log()

CLAIM = Claim(
    id="M9",
    source=f"{PAPER}, Fig. 2 left, bottom",
    statement="Training with more queries is slightly worse with few, by less than M5.",
    parts=(above(PENALTY), below(PENALTY - PENALTY_OF_LENGTH)),
    inferred="256 queries against 64, asked for 4; compared with L_train 512 against 128 at 16 tokens",
    conditions=LONG,
)
