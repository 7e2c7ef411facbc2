"""N2: the first block's time steps are flat."""

from __future__ import annotations

from lgbench.claims.claim import Claim, within
from lgbench.claims.quantities import reading
from lgbench.claims.rathjens._settings import PAPER, SHORT, short_trained, time_steps

CLAIM = Claim(
    id="N2",
    source=f"{PAPER}, Fig. 6 right",
    statement="In the first block the norm of the time steps is flat along the sequence; told the length, "
    "after the first token.",
    parts=(
        *(
            within(reading(time_steps(model), "slope of the first block"), -0.01, 0.01)
            for model in (short_trained(), short_trained("prepended", own_training=True))
        ),
    ),
    inferred="flat means that a fitted line rises by less than 1 % of the mean over 128 tokens",
    conditions=SHORT,
)
