"""Induction heads: the marker stood once and comes again; say what followed it the first time.

    context     b a # f c c e a        # is the marker; a context has exactly one
    query       #                      the answer here is f

One bigram to keep among noise. In the paper a Mamba that was trained at 2^8 tokens is right at 2^20.
Source: Gu and Dao, arXiv:2312.00752, §4.1.2, appendix E.1 and table 11; task: Olsson et al.,
arXiv:2209.11895, in the form of Dao et al., arXiv:2212.14052. The paper says: 16 tokens, 2 layers, D = 64 for
Mamba, batches of 8, 204,800 steps at a constant 1e-3 without weight decay, fresh data in every step,
evaluation at 2^6 to 2^20. It does not print d_state, the convolution's width, the clipping or the number of
evaluation items; Mamba's defaults, 1.0 and 100 are inferred. Deviations: the query stands after the context,
which has the whole length; the loss is that of the answer; further queries ask the same. Training contexts
have L_train tokens in the preset `paper`; in the others a method decides their range (`vanilla`: from 2 on).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor, nn

from lgbench.models.symbols import (
    LOG_PROBABILITY,
    SymbolInterface,
    chance_of,
    check_lengths,
    class_losses,
    is_right,
)
from lgbench.published import Figure
from lgbench.recipe import suggest
from lgbench.task import Batch, EvalSet, Layout, Metric, Recipe, SampledItems, Task

MAX_QUERIES = 128
"""Of an evaluation item."""

_POWERS = tuple(2**k for k in range(6, 21))
_COMMON = dict(num_layers=2, train_queries=(1, 1), eval_queries=1)
RECIPES: dict[str, Recipe] = {
    "smoke": Recipe(
        **_COMMON, d_model=32, sizes=suggest(d_state=8, conv_width=4),
        train_length=64, train_steps=600, batch_size=32,
        learning_rate=4e-3, warmup_steps=50, decay_from=0.5,
        eval_lengths=_POWERS[:7], eval_items=100, eval_batch=100,
    ),
    "small": Recipe(
        **_COMMON, d_model=64, sizes=suggest(d_state=16, conv_width=4),
        train_length=256, train_steps=5000, batch_size=64,
        learning_rate=1e-3, warmup_steps=200, decay_from=0.5,
        eval_lengths=_POWERS, eval_items=100, eval_batch=100,
    ),
    "paper": Recipe(
        **_COMMON, d_model=64, sizes=suggest(d_state=16, conv_width=4, init_std=0.02),
        train_length=256, fixed_length=True, train_steps=204_800,
        batch_size=8, learning_rate=1e-3, eval_lengths=_POWERS, eval_items=100, eval_batch=100,
    ),
}  # fmt: skip


class InductionHeads(Task):
    """Recall of one bigram: the published case of a recurrent model that holds for a million tokens."""

    class Params(Task.Params):
        vocabulary: int = Field(
            16, ge=3, le=250, description="tokens, the marker included; chance is 1 / (vocabulary - 1)"
        )

    metric = Metric(name="accuracy", best=1.0, higher_is_better=True, interval="wilson")
    log_metric = LOG_PROBABILITY
    more_metrics = (log_metric,)
    min_length = 2
    data_fingerprint = "generated"
    published = (
        Figure(
            paper="Gu and Dao, Mamba, arXiv:2312.00752",
            shows="Table 11: induction heads, Mamba",
            command="lgbench run --task induction_heads --preset paper",
            deviations=(
                "The query stands after the context and its loss is the only one.",
                "Size of the state, width of the convolution, clipping and number of items are not printed; "
                "they are Mamba's defaults, 1.0 and 100.",
            ),
        ),
    )

    def recipe(self, preset: str, layout: Layout) -> Recipe:
        """Numbers of a preset; `paper` is the published recipe, `small` takes minutes on a GPU."""
        if preset not in RECIPES:
            raise LookupError(f"induction_heads has no preset '{preset}'. It has: {', '.join(RECIPES)}")
        return RECIPES[preset]

    def check(self, recipe: Recipe) -> None:
        """Refuse contexts without room for the pair."""
        check_lengths("induction_heads", self.min_length, recipe)

    def interface(self, d_model: int, layout: Layout) -> nn.Module:
        """All tokens in, all but the marker out."""
        return SymbolInterface(self.params.vocabulary, self.params.vocabulary - 1, d_model, layout)

    def sample(self, num_items: int, length: int, num_queries: int, generator: torch.Generator) -> Batch:
        """Contexts `(num_items, length)` uint8 of uniform tokens, with the marker before any but the first.

        The marker is the last token of the vocabulary, so that answers are counted from 0.
        """
        marker = self.params.vocabulary - 1
        like = dict(generator=generator, device=generator.device)
        tokens = torch.randint(marker, (num_items, length), dtype=torch.uint8, **like)
        place = torch.randint(length - 1, (num_items, 1), **like)
        tokens.scatter_(1, place, torch.full_like(place, marker, dtype=torch.uint8))
        targets = tokens.gather(1, place + 1).long().expand(-1, num_queries)
        return Batch({"tokens": tokens}, {"tokens": torch.full_like(targets, marker)}, targets)

    def eval_set(self, num_items: int, seed: int) -> EvalSet:
        """Fixed draws of `sample`, the same number of items at every length."""
        return SampledItems(self, num_items, seed, MAX_QUERIES)

    def loss(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy of each query, nats."""
        return class_losses(predictions, targets)

    def score(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """1 where the likeliest token is right, else 0."""
        return is_right(predictions, targets)

    def references(self, eval_set: EvalSet, num_queries: int, metric: Metric) -> Mapping[str, float]:
        """What equal odds for all answers score."""
        return {"chance": chance_of(metric, self.params.vocabulary - 1)}
