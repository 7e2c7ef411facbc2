"""Dropping tokens costs near L_train what it gains far beyond."""

from __future__ import annotations

from lgbench.claims.claim import Claim, above, below
from lgbench.claims.quantities import value
from lgbench.claims.rathjens._settings import PAPER
from lgbench.claims.remedies._settings import SMALL, passkey

MODELS = passkey("decimamba"), passkey("longmamba")

CLAIM = Claim(
    id="near_training",
    source=f"{PAPER}, on DeciMamba and LongMamba",
    statement="DeciMamba and LongMamba are below vanilla near the training length and above it only from "
    "about twice that on.",
    parts=(
        *(below(value(model, 2048, "accuracy") - value(passkey(), 2048, "accuracy")) for model in MODELS),
        *(above(value(model, 8192, "accuracy") - value(passkey(), 8192, "accuracy")) for model in MODELS),
    ),
    inferred="passkey instead of the papers’ perplexity; compared at L_train and at 4 L_train",
    conditions=SMALL,
)
