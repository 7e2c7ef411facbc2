"""M8: more queries than in training do much less harm than more tokens."""

from __future__ import annotations

from lgbench.claims.claim import Claim, above, below
from lgbench.claims.quantities import Quantity, at_queries, value
from lgbench.claims.rathjens._settings import LENGTHS, LONG, PAPER, long_trained


def rise_by_queries(train_length: int) -> Quantity:
    """Logarithm of the error at 16 times the trained number of queries over that at the trained one."""
    model = long_trained(train_length)
    return at_queries(model, 16 * 64).log() - at_queries(model, 64).log()


def rise_by_tokens(train_length: int) -> Quantity:
    """The same at 16 times the trained number of tokens."""
    model = long_trained(train_length)
    return value(model, 16 * train_length).log() - value(model, train_length).log()


CLAIM = Claim(
    id="M8",
    source=f"{PAPER}, Fig. 2 left, bottom",
    statement="With more queries than in training the error rises, but relatively less than with more "
    "tokens.",
    parts=(
        *(above(rise_by_queries(n)) for n in LENGTHS),
        *(below(rise_by_queries(n) - rise_by_tokens(n)) for n in LENGTHS),
    ),
    inferred="that both are compared at 16 times their number in training",
    conditions=LONG,
)
