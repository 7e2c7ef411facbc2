"""Keeping a share of the tokens carries less far than keeping a number."""

from __future__ import annotations

from lgbench.claims.claim import Claim, above
from lgbench.claims.quantities import value
from lgbench.claims.remedies._settings import DECIMAMBA, SMALL, passkey

NUMBER = passkey("decimamba[layers=[[1,2,3]],l_base=1024,train_with=true]", own_training=True)
SHARE = passkey("decimamba[layers=[[1,2,3]],count=top_k_percent,train_with=true]", own_training=True)

CLAIM = Claim(
    id="decimamba_top_k",
    source=f"{DECIMAMBA}, ablation of Top-K %",
    statement="Keeping half of the tokens in each layer carries less far than keeping L_base β^s: 16 "
    "times L_train, not 64.",
    parts=(above(value(NUMBER, 131072, "accuracy") - value(SHARE, 131072, "accuracy")),),
    inferred="three decimating layers of four instead of nine of 24, and the length of the comparison",
    conditions=SMALL,
)
