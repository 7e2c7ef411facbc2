"""Random tokens instead of important ones."""

from __future__ import annotations

from lgbench.claims.claim import Claim, above, below
from lgbench.claims.quantities import value
from lgbench.claims.remedies._settings import DECIMAMBA, SMALL, perplexity

RANDOM = perplexity("decimamba[score=random]")

CLAIM = Claim(
    id="decimamba_random",
    source=f"{DECIMAMBA}, ablation of the pooling score",
    statement="Keeping random tokens is far worse than keeping those with large time steps on short "
    "contexts, and still better than vanilla on long ones.",
    parts=(
        above(value(RANDOM, 4096, "ln PPL") - value(perplexity("decimamba"), 4096, "ln PPL")),
        below(value(RANDOM, 65536, "ln PPL") - value(perplexity(), 65536, "ln PPL")),
    ),
    inferred="that short means 2 and long 32 times L_train",
    conditions=SMALL,
)
