"""X3: telling the length helps in range and hurts beyond."""

from __future__ import annotations

from lgbench.claims.claim import Claim, above, below
from lgbench.claims.quantities import value
from lgbench.claims.rathjens._settings import PAPER, SHORT, SHORT_GRID, short_trained

DEFAULT, TOLD = short_trained(), short_trained("prepended", own_training=True)

CLAIM = Claim(
    id="X3",
    source=f"{PAPER}, Fig. 6 left",
    statement="A model that is told the length is better everywhere in range and fails sooner beyond.",
    parts=(
        *(below(value(TOLD, length) - value(DEFAULT, length)) for length in SHORT_GRID if length <= 1024),
        above(
            value(TOLD, 32768).log()
            - value(TOLD, 1024).log()
            - (value(DEFAULT, 32768).log() - value(DEFAULT, 1024).log())
        ),
    ),
    inferred="that to fail sooner shows as a larger relative rise of the error from L_train to 32 "
    "L_train; after 20,000 steps neither model is ever worse than chance",
    conditions=SHORT,
)
