"""Decimation keeps the perplexity low."""

from __future__ import annotations

from lgbench.claims.claim import Claim, below
from lgbench.claims.quantities import value
from lgbench.claims.remedies._settings import DECIMAMBA, SMALL, perplexity

DECIMATED = perplexity("decimamba[layers=[[2,3]],beta=0.83,train_with=true]", own_training=True)

CLAIM = Claim(
    id="decimamba_perplexity",
    source=f"{DECIMAMBA}, PG-19",
    statement="Trained with decimation, the perplexity at 16 and 32 times L_train is below vanilla’s.",
    parts=(
        *(
            below(value(DECIMATED, far, "ln PPL") - value(perplexity(), far, "ln PPL"))
            for far in (32768, 65536)
        ),
    ),
    inferred="which layers decimate, and the lengths",
    conditions=SMALL,
)
