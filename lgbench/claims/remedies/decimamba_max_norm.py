"""The norm of a token as its importance."""

from __future__ import annotations

from lgbench.claims.claim import Claim, above
from lgbench.claims.quantities import value
from lgbench.claims.remedies._settings import DECIMAMBA, SMALL, perplexity

CLAIM = Claim(
    id="decimamba_max_norm",
    source=f"{DECIMAMBA}, ablation of the pooling score",
    statement="Keeping the tokens of largest norm is somewhat worse than keeping those with large time "
    "steps.",
    parts=(
        *(
            above(
                value(perplexity("decimamba[score=max_norm]"), far, "ln PPL")
                - value(perplexity("decimamba"), far, "ln PPL")
            )
            for far in (8192, 32768)
        ),
    ),
    inferred="which tensor has the norm (the scan input here), and the lengths of the comparison",
    conditions=SMALL,
)
