"""T1: the transformer does not collapse."""

from __future__ import annotations

from lgbench.claims.claim import Claim, below
from lgbench.claims.quantities import chance, value
from lgbench.claims.rathjens._settings import ENCODER_DECODER, PAPER, transformer

MODEL = transformer()

CLAIM = Claim(
    id="T1",
    source=f"{PAPER}, Fig. 2 right",
    statement="The transformer saturates and does not collapse: at 16 L_train its error is within 10 % of "
    "its lowest, and below chance.",
    parts=(
        *(below(value(MODEL, 2048) - 1.1 * value(MODEL, length)) for length in (128, 256, 512, 1024)),
        below(value(MODEL, 2048) - chance(MODEL, 2048)),
    ),
    inferred="the 10 % and the factor 16",
    conditions=ENCODER_DECODER,
)
