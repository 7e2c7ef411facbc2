"""R3: who is told the length is better on few patches."""

from __future__ import annotations

from lgbench.claims.claim import Claim, below
from lgbench.claims.quantities import reading
from lgbench.claims.rathjens._settings import PAPER, SHORT, seen, short_trained

DEFAULT, TOLD = seen(short_trained()), seen(short_trained("prepended", own_training=True))
ALL = "error on all tokens so far"

CLAIM = Claim(
    id="R3",
    source=f"{PAPER}, Fig. 5 right",
    statement="A model that is told the length has at least 20 % less error on few seen patches than the "
    "default one.",
    parts=(below(reading(TOLD, ALL, 128) - 0.8 * reading(DEFAULT, ALL, 128)),),
    inferred="the 20 %, and few meaning 128",
    conditions=SHORT,
)
