"""M8: more queries than in training do much less harm than more tokens."""

from __future__ import annotations

from lgbench.claims.claim import Claim, above, below
from lgbench.claims.quantities import at_queries, value
from lgbench.claims.rathjens._settings import LENGTHS, LONG, PAPER, SHORT, long_trained, short_trained

MODELS = ((short_trained(), 1024, 256), *((long_trained(n), n, 64) for n in LENGTHS))
RISES = [
    (
        at_queries(model, 16 * queries).log() - at_queries(model, queries).log(),
        value(model, 16 * length).log() - value(model, length).log(),
    )
    for model, length, queries in MODELS
]

CLAIM = Claim(
    id="M8",
    source=f"{PAPER}, Fig. 2 left, bottom",
    statement="With more queries than in training the error rises, but relatively less than with more "
    "tokens.",
    parts=(*(above(by_queries) for by_queries, _ in RISES), *(below(a - b) for a, b in RISES)),
    inferred="that both are compared at 16 times their number in training, as logarithms of the error's rise",
    conditions=f"{LONG}. L_train 1,024: {SHORT}",
)
