"""N3: told the length, deeper blocks choose their time steps by it."""

from __future__ import annotations

from lgbench.claims.claim import Claim, above
from lgbench.claims.quantities import reading
from lgbench.claims.rathjens._settings import PAPER, SHORT, short_trained

CLAIM = Claim(
    id="N3",
    source=f"{PAPER}, Fig. 6 right",
    statement="In a model that is told the length, the curves of deeper blocks separate by it.",
    parts=(
        above(
            reading(
                "delta_norm", "deep_spread_in_standard_errors", short_trained("prepended", own_training=True)
            ),
            5,
        ),
    ),
    inferred="separate means a spread of more than 5 standard errors",
    conditions=SHORT,
)
