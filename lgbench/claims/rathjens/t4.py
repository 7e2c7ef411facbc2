"""T4: deeper transformers are better and saturate alike."""

from __future__ import annotations

from lgbench.claims.claim import Claim, below
from lgbench.claims.quantities import value
from lgbench.claims.rathjens._settings import ENCODER_DECODER, PAPER, transformer

SHALLOW, DEEP = transformer(num_layers=2), transformer()

CLAIM = Claim(
    id="T4",
    source=f"{PAPER}, Fig. 2 right",
    statement="Deeper transformers have a lower error, and saturate at every depth.",
    parts=(
        below(value(DEEP, 128) - value(SHALLOW, 128)),
        *(below(value(model, 2048) - 1.1 * value(model, 128)) for model in (SHALLOW, DEEP)),
    ),
    inferred="8 layers against 2; to saturate means at most 10 % more error at 16 L_train than at L_train",
    conditions=ENCODER_DECODER,
)
