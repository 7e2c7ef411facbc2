"""Scales fitted in range too did harm there."""

from __future__ import annotations

from lgbench.claims.claim import Claim, above
from lgbench.claims.quantities import value
from lgbench.claims.rathjens._settings import short_trained

CLAIM = Claim(
    id="released_extend_in_range",
    source="our own",
    statement="MambaExtend as first built, fitted at every length, is worse than vanilla from 16 tokens "
    "to L_train.",
    parts=(
        *(
            above(
                value(short_trained("mambaextend[steps=20,items=8]"), length) - value(short_trained(), length)
            )
            for length in (16, 32, 64, 128, 256, 512, 1024)
        ),
    ),
)
