"""A language model of these blocks does not break."""

from __future__ import annotations

from lgbench.claims.claim import Claim, within
from lgbench.claims.quantities import value
from lgbench.claims.remedies._settings import perplexity

CLAIM = Claim(
    id="perplexity_holds",
    source="our own",
    statement="The perplexity of vanilla stays within 5 % of that at L_train up to 64 L_train.",
    parts=(
        *(
            within(value(perplexity(), far, "ln PPL") - value(perplexity(), 2048, "ln PPL"), -0.05, 0.05)
            for far in (8192, 32768, 131072)
        ),
    ),
)
