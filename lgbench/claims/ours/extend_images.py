"""Fitted scales lower the error beyond training."""

from __future__ import annotations

from lgbench.claims.claim import Claim, below
from lgbench.claims.quantities import value
from lgbench.claims.rathjens._settings import short_trained

CLAIM = Claim(
    id="extend_images",
    source="our own",
    statement="After 20,000 steps mambaextend and slow_clock are below vanilla at 4, 8 and 16 L_train.",
    parts=(
        *(
            below(value(short_trained(method), far) - value(short_trained(), far))
            for method in ("mambaextend[steps=20,items=8]", "slow_clock")
            for far in (4096, 8192, 16384)
        ),
    ),
)
