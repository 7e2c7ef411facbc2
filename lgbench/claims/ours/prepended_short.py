"""Telling the length helps on short sequences."""

from __future__ import annotations

from lgbench.claims.claim import Claim, below
from lgbench.claims.quantities import value
from lgbench.claims.rathjens._settings import short_trained

TOLD = short_trained("prepended", own_training=True)

CLAIM = Claim(
    id="prepended_short",
    source="our own",
    statement="After 20,000 steps prepended is better than vanilla at 1, 2, 32 and 64 tokens.",
    parts=(*(below(value(TOLD, length) - value(short_trained(), length)) for length in (1, 2, 32, 64)),),
)
