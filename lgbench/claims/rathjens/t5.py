"""T5: the number of queries does not matter to the transformer."""

from __future__ import annotations

from lgbench.claims.claim import Claim, within_percent
from lgbench.claims.quantities import at_queries
from lgbench.claims.rathjens._settings import ENCODER_DECODER, PAPER, transformer

CLAIM = Claim(
    id="T5",
    source=f"{PAPER}, Fig. 2 right",
    statement="The transformer's error is flat in the number of queries: within 5 %.",
    parts=tuple(
        within_percent(at_queries(transformer(), queries), at_queries(transformer(), 64), 5)
        for queries in (16, 32, 128, 256, 512, 1024, 2048)
    ),
    inferred="the 5 %, the reference of 64 queries, and that fewer than 16 are too noisy to be meant",
    conditions=f"{ENCODER_DECODER}; 1 to 100 queries in training, as in the paper's code",
)
