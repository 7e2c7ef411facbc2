"""The needle’s tokens have large time steps."""

from __future__ import annotations

from lgbench.claims.claim import Claim, above
from lgbench.claims.quantities import reading
from lgbench.claims.remedies._settings import DECIMAMBA, L_TRAIN, SMALL, look, passkey

READ = look("delta_map", passkey(), 1, 2, 4, 8)

CLAIM = Claim(
    id="needle_rank",
    source=f"{DECIMAMBA}, heat maps of Δ",
    statement="The tokens of the passkey are among those with the largest time steps while they are "
    "within reach.",
    parts=(above(reading(READ, "best recall at L_train", 2 * L_TRAIN), 0.9),),
    inferred="that of the L_train tokens of a context of 2 L_train with the largest steps, in the layer "
    "where it is best",
    conditions=SMALL,
)
