"""X2: training on longer sequences too."""

from __future__ import annotations

from lgbench.claims.claim import Claim, above, below
from lgbench.claims.quantities import value
from lgbench.claims.rathjens._settings import PAPER, SHORT, short_trained

DEFAULT, EXPANDED = short_trained(), short_trained("expanded", own_training=True)

CLAIM = Claim(
    id="X2",
    source=f"{PAPER}, Fig. 6 left",
    statement="Trained on longer sequences too, a model is worse on short ones and much better beyond 1,024.",
    parts=(
        *(above(value(EXPANDED, length) - value(DEFAULT, length)) for length in (16, 64)),
        *(below(value(EXPANDED, length) - value(DEFAULT, length)) for length in (2048, 4096)),
    ),
    inferred="how much longer (the method's default), and the lengths of the comparison",
    conditions=SHORT,
)
