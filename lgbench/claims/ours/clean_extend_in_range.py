"""Clean scales do nothing in range."""

from __future__ import annotations

from lgbench.claims.claim import Claim, within_percent
from lgbench.claims.quantities import value
from lgbench.claims.rathjens._settings import LENGTHS, long_trained

CLAIM = Claim(
    id="clean_extend_in_range",
    source="our own",
    statement="MambaExtend with clean calibration is the identity up to L_train: its error is within 1 % "
    "of vanilla’s.",
    parts=(
        *(
            within_percent(value(long_trained(n, "mambaextend"), length), value(long_trained(n), length), 1)
            for n in LENGTHS
            for length in (16, n)
        ),
    ),
)
