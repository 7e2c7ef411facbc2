"""X1: training on long sequences alone."""

from __future__ import annotations

from lgbench.claims.claim import Claim, above, below
from lgbench.claims.quantities import value
from lgbench.claims.rathjens._settings import PAPER, SHORT, short_trained

DEFAULT, TRUNCATED = short_trained(), short_trained("truncated", own_training=True)

CLAIM = Claim(
    id="X1",
    source=f"{PAPER}, Fig. 6 left",
    statement="Trained on 512 to 1,024 tokens alone, a model is slightly better there, worse on short "
    "sequences, and degrades more steeply beyond.",
    parts=(
        *(below(value(TRUNCATED, length) - value(DEFAULT, length)) for length in (512, 1024)),
        *(above(value(TRUNCATED, length) - value(DEFAULT, length)) for length in (16, 64, 128)),
        above(
            value(TRUNCATED, 8192).log()
            - value(TRUNCATED, 2048).log()
            - (value(DEFAULT, 8192).log() - value(DEFAULT, 2048).log())
        ),
    ),
    inferred="short means up to 128 tokens, and steeper is compared from 2,048 to 8,192",
    conditions=SHORT,
)
