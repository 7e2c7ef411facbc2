"""State passing on images."""

from __future__ import annotations

from lgbench.claims.claim import Claim, below
from lgbench.claims.quantities import value
from lgbench.claims.rathjens._settings import SHORT, short_trained
from lgbench.claims.remedies._settings import STATES

CLAIM = Claim(
    id="state_passing_images",
    source=f"{STATES}, abstract",
    statement="Training from states of long sequences makes long ones no surprise: the error at 16 "
    "L_train is below vanilla’s.",
    parts=(
        below(
            value(short_trained("state_passing", own_training=True), 16384) - value(short_trained(), 16384)
        ),
    ),
    inferred="the task: nobody published it on images",
    conditions=SHORT,
)
