"""N1: time steps do not depend on what comes later."""

from __future__ import annotations

from lgbench.claims.claim import Claim, within
from lgbench.claims.quantities import reading
from lgbench.claims.rathjens._settings import LONG, PAPER, long_trained, time_steps

CLAIM = Claim(
    id="N1",
    source=f"{PAPER}, Fig. 6 right",
    statement="The norms of the time steps nearly coincide for different total lengths.",
    parts=(within(reading(time_steps(long_trained(256)), "spread between lengths"), -1e-5, 1e-5),),
    inferred="on identical tokens they are equal by causality, so equality is demanded to 1e-5",
    conditions=LONG,
)
