"""T3: the transformer pays less on short sequences for long training."""

from __future__ import annotations

from lgbench.claims.claim import Claim, below
from lgbench.claims.quantities import value
from lgbench.claims.rathjens._settings import ENCODER_DECODER, LONG, PAPER, long_trained, transformer

PENALTY = value(transformer(256), 16).log() - value(transformer(128), 16).log()
PENALTY_OF_MAMBA = value(long_trained(256), 16).log() - value(long_trained(128), 16).log()

CLAIM = Claim(
    id="T3",
    source=f"{PAPER}, Fig. 2 right",
    statement="The penalty on short sequences for training on longer ones is less than half of Mamba's.",
    parts=(below(PENALTY - 0.5 * PENALTY_OF_MAMBA),),
    inferred="the half; L_train 256 against 128, at 16 tokens",
    conditions=f"transformer: {ENCODER_DECODER}. Mamba: {LONG}",
)
