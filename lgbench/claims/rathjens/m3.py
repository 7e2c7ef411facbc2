"""M3: at 16 times L_train a model is worse than chance."""

from __future__ import annotations

from lgbench.claims.claim import Claim, above
from lgbench.claims.quantities import chance, value
from lgbench.claims.rathjens._settings import LENGTHS, LONG, PAPER, long_trained

CLAIM = Claim(
    id="M3",
    source=f"{PAPER}, Fig. 2 left",
    statement="The error collapses sharply: at 16 L_train it is worse than an answer that ignores the image.",
    parts=tuple(
        above(value(long_trained(n), 16 * n) - chance(long_trained(n), 16 * n)) for n in (*LENGTHS, 1024)
    ),
    inferred="the factor 16 for every L_train (for 1,024 the number 16,384 survives), and the definition "
    "of chance: the error of the mean image",
    conditions=f"{LONG}; L_train 1,024 with 90,000 steps",
)
