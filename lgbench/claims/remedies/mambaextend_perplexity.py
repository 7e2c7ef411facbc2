"""Scaled time steps keep the perplexity low."""

from __future__ import annotations

from lgbench.claims.claim import Claim, below
from lgbench.claims.quantities import value
from lgbench.claims.remedies._settings import MAMBAEXTEND, SMALL, perplexity

MODEL = perplexity("mambaextend")

CLAIM = Claim(
    id="mambaextend_perplexity",
    source=f"{MAMBAEXTEND}, Proof-Pile and PG-19",
    statement="Scaled time steps keep the perplexity below vanilla’s at 8 to 32 times L_train, without "
    "harm at L_train.",
    parts=(
        *(below(value(MODEL, far, "ln PPL") - value(perplexity(), far, "ln PPL")) for far in (16384, 65536)),
        below(value(MODEL, 2048, "ln PPL") - value(perplexity(), 2048, "ln PPL"), 0.01),
    ),
    inferred="no harm means less than 1 % of the perplexity; the last 100 tokens are scored, as on PG-19",
    conditions=SMALL,
)
