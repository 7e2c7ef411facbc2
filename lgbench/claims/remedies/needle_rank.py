"""The needle’s tokens have large time steps."""

from __future__ import annotations

from lgbench.claims.claim import Claim, above
from lgbench.claims.quantities import reading
from lgbench.claims.remedies._settings import DECIMAMBA, SMALL, passkey

CLAIM = Claim(
    id="needle_rank",
    source=f"{DECIMAMBA}, heat maps of Δ",
    statement="The tokens of the passkey are among those with the largest time steps while they are "
    "within reach.",
    parts=(above(reading("delta_map", "needle_recall_at_train_length", passkey()), 0.9),),
    inferred="the recall, at L_train, of as many tokens as decimation keeps",
    conditions=SMALL,
)
