"""Finding a document fades sooner than copying from it."""

from __future__ import annotations

from lgbench.claims.claim import Claim, above
from lgbench.claims.model import Model
from lgbench.claims.quantities import value

_BOTH = Model(
    task="document_retrieval",
    task_params=(("protocol", "clean"), ("question_share", 0.3)),
    metric="keyword",
    train_length=11,
    num_layers=6,
    d_state=16,
    lm_weight=0.1,
)
FIND = _BOTH.change(train_steps=5000)
COPY = _BOTH.change(task="multidoc_qa", metric="continuation", train_steps=6000)

CLAIM = Claim(
    id="finding_fades_sooner",
    source="our own",
    statement="At 40 and 80 documents, copying from a document is right more often than finding one.",
    parts=(*(above(value(COPY, far, "continuation") - value(FIND, far, "keyword")) for far in (40, 80)),),
)
