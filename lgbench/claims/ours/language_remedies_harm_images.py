"""Remedies made for language harm images."""

from __future__ import annotations

from lgbench.claims.claim import Claim, above
from lgbench.claims.quantities import value
from lgbench.claims.rathjens._settings import short_trained

CLAIM = Claim(
    id="language_remedies_harm_images",
    source="our own",
    statement="LongMamba and DeciMamba are worse than vanilla on images at 4, 8 and 16 L_train.",
    parts=(
        *(
            above(value(short_trained(method), far) - value(short_trained(), far))
            for method in ("longmamba", "decimamba")
            for far in (4096, 8192, 16384)
        ),
    ),
)
