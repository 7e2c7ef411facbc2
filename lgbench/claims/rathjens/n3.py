"""N3: told the length, deeper blocks choose their time steps by it."""

from __future__ import annotations

from lgbench.claims.claim import Claim, above
from lgbench.claims.quantities import reading
from lgbench.claims.rathjens._settings import PAPER, SHORT, short_trained, time_steps

TOLD = time_steps(short_trained("prepended", own_training=True))

CLAIM = Claim(
    id="N3",
    source=f"{PAPER}, Fig. 6 right",
    statement="In a model that is told the length, the curves of deeper blocks separate by it.",
    parts=(above(reading(TOLD, "spread in standard errors"), 5),),
    inferred="separate means a spread of more than 5 standard errors over items, in the block where it is "
    "largest",
    conditions=SHORT,
)
