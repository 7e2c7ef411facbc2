"""T2: the transformer's plateau is lower the longer it was trained."""

from __future__ import annotations

from itertools import pairwise

from lgbench.claims.claim import Claim, below
from lgbench.claims.quantities import value
from lgbench.claims.rathjens._settings import ENCODER_DECODER, PAPER, transformer

CLAIM = Claim(
    id="T2",
    source=f"{PAPER}, Fig. 2 right",
    statement="A transformer that was trained on longer sequences saturates at a lower error.",
    parts=tuple(
        below(value(transformer(longer), 1024) - value(transformer(shorter), 1024))
        for shorter, longer in pairwise((64, 128, 256))
    ),
    inferred="training lengths 64, 128 and 256, and the plateau at 1,024 tokens",
    conditions=ENCODER_DECODER,
)
