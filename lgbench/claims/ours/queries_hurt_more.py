"""After short training more queries hurt more than more tokens."""

from __future__ import annotations

from lgbench.claims.claim import Claim, above
from lgbench.claims.model import Model
from lgbench.claims.quantities import Quantity, at_queries, value
from lgbench.claims.rathjens._settings import short_trained

MODELS = short_trained(), short_trained("prepended", own_training=True)


def rise_by_queries(model: Model) -> Quantity:
    """Logarithm of the error at 16 times the trained number of queries over that at the trained one."""
    return at_queries(model, 4096).log() - at_queries(model, 256).log()


def rise_by_tokens(model: Model) -> Quantity:
    """The same at 16 times the trained number of tokens."""
    return value(model, 16384).log() - value(model, 1024).log()


CLAIM = Claim(
    id="queries_hurt_more",
    source="our own",
    statement="After 20,000 steps 16 times the trained number of queries raises the error more than 16 "
    "times the tokens: M8 reversed.",
    parts=(*(above(rise_by_queries(model) - rise_by_tokens(model)) for model in MODELS),),
)
