"""Decimation answers from more documents."""

from __future__ import annotations

from lgbench.claims.claim import Claim, above
from lgbench.claims.model import Model
from lgbench.claims.quantities import value
from lgbench.claims.remedies._settings import DECIMAMBA, SMALL

VANILLA = Model(
    task="multidoc_qa",
    task_params=(("protocol", "clean"), ("question_share", 0.3)),
    metric="F1",
    train_length=11,
    train_steps=6000,
    num_layers=6,
    d_state=16,
    lm_weight=0.1,
)
DECIMATED = VANILLA.change(method="decimamba[layers=[[3]],train_with=true]", own_training=True)

CLAIM = Claim(
    id="decimamba_documents",
    source=f"{DECIMAMBA}, multi-document question answering",
    statement="Trained with decimation, a model answers from 80 and 160 documents better than vanilla.",
    parts=(*(above(value(DECIMATED, far, "F1") - value(VANILLA, far, "F1")) for far in (80, 160)),),
    inferred="which layer decimates (the fourth of six)",
    conditions=SMALL,
)
