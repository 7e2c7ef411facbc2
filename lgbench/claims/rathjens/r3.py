"""R3: who is told the length is better on few patches."""

from __future__ import annotations

from lgbench.claims.claim import Claim, below
from lgbench.claims.quantities import reading
from lgbench.claims.rathjens._settings import PAPER, SHORT, short_trained

CLAIM = Claim(
    id="R3",
    source=f"{PAPER}, Fig. 5 right",
    statement="A model that is told the length has at least 20 % less error on few seen patches than the "
    "default one.",
    parts=(
        below(
            reading("seen_patches", "seen_error_at_128", short_trained("prepended", own_training=True))
            - 0.8 * reading("seen_patches", "seen_error_at_128", short_trained())
        ),
    ),
    inferred="the 20 %, and few meaning up to 128",
    conditions=SHORT,
)
