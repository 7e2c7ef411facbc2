"""V1: reconstructions first improve, then break down."""

from __future__ import annotations

from lgbench.claims.claim import Claim, above, below
from lgbench.claims.quantities import reading
from lgbench.claims.rathjens._settings import LONG, PAPER, long_trained, painted

SHORTER, LONGER = long_trained(128), long_trained(512)

CLAIM = Claim(
    id="V1",
    source=f"{PAPER}, Fig. 3",
    statement="On identical tokens reconstructions improve and then break down, later the longer the "
    "training was.",
    parts=(
        *(above(reading(painted(m), "correlation", m.train_length), 0.3) for m in (SHORTER, LONGER)),
        below(reading(painted(SHORTER), "correlation", 128 * 128), 0.3),
        above(
            reading(painted(LONGER), "breakdown length").log()
            - reading(painted(SHORTER), "breakdown length").log()
        ),
    ),
    inferred="unrecognisable means a correlation of reconstruction and image below 0.3, on a grid of octaves",
    conditions=LONG,
)
