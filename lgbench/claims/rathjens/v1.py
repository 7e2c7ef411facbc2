"""V1: reconstructions first improve, then break down."""

from __future__ import annotations

from lgbench.claims.claim import Claim, above, below
from lgbench.claims.quantities import reading
from lgbench.claims.rathjens._settings import LONG, PAPER, long_trained

SHORTER, LONGER = long_trained(128), long_trained(512)

CLAIM = Claim(
    id="V1",
    source=f"{PAPER}, Fig. 3",
    statement="On identical tokens reconstructions improve and then break down, later the longer the "
    "training was.",
    parts=(
        *(
            above(reading("identical_tokens", "correlation_at_train_length", m), 0.3)
            for m in (SHORTER, LONGER)
        ),
        *(below(reading("identical_tokens", "correlation_at_128x", m), 0.3) for m in (SHORTER,)),
        above(
            reading("identical_tokens", "breakdown_tokens", LONGER)
            - reading("identical_tokens", "breakdown_tokens", SHORTER)
        ),
    ),
    inferred="unrecognisable means a correlation of reconstruction and image below 0.3",
    conditions=LONG,
)
