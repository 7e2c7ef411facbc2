"""Scaling the decay helps where scaling time steps fails."""

from __future__ import annotations

from lgbench.claims.claim import Claim, above
from lgbench.claims.quantities import value
from lgbench.claims.remedies._settings import EXTENDED, MODULATED, MODULATION, SMALL, passkey

CLAIM = Claim(
    id="modulation_beats_extend",
    source=f"{MODULATION}, abstract",
    statement="Scaling the spectrum of the transition helps at lengths at which scaling the time steps "
    "does not.",
    parts=(
        *(
            above(value(MODULATED, far, "accuracy") - value(EXTENDED, far, "accuracy"))
            for far in (32768, 131072)
        ),
        *(
            above(value(MODULATED, far, "accuracy") - value(passkey(), far, "accuracy"))
            for far in (32768, 131072)
        ),
    ),
    inferred="the task and the lengths; the linear map, as the paper is read",
    conditions=SMALL,
)
