"""After long training the error becomes worse than chance."""

from __future__ import annotations

from lgbench.claims.claim import Claim, above
from lgbench.claims.quantities import chance, value
from lgbench.claims.rathjens._settings import long_trained

CLAIM = Claim(
    id="collapse",
    source="our own",
    statement="After 260,000 steps a model that was trained on up to 256 tokens is worse at 128 L_train "
    "than an answer that ignores the image.",
    parts=(above(value(long_trained(256), 32768) - chance(long_trained(256), 32768)),),
)
