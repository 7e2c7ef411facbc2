"""Multi-query associative recall: pairs of key and value, then keys; say the value of each.

    context     k3 v7  k1 v2  k8 v2  .  .  .  .      pairs=3, then the gap, here of four blanks
    queries     k1 k8 k3                             answers v2 v2 v7
    gap=1       .  .  .  k3 v7  k1 v2  k8 v2  .      the same context with a fixed gap

No key is there twice, so each answer is unique. Queries ask for all pairs in a random order before they ask
for one again. Which axis is it? *Length* with gap=null: pairs first, so what grows is the gap. *Length* with
a fixed gap: what grows is the noise in front. `pairs`: what must fit into the state.
Source: Arora et al., arXiv:2312.04927, §4, and their released code; 64 to 512 tokens with 4 to 64 pairs and
8,192 tokens in figure 2. Deviations: all queries stand at the end, where the paper scatters them over the gap
by a power law; values are drawn with replacement, and noise is never a key, so that no pair arises by
accident (their `random_non_queries=True` lets that happen; `noise=blank` is their `False`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from lgbench.models.symbols import (
    LOG_PROBABILITY,
    SymbolInterface,
    chance_of,
    check_lengths,
    class_losses,
    is_right,
)
from lgbench.recipe import suggest
from lgbench.task import Batch, EvalSet, Layout, Metric, Recipe, SampledItems, Task

MAX_QUERIES = 128  # of an evaluation item


def _doubling(low: int, high: int) -> tuple[int, ...]:
    return tuple(low << k for k in range((high // low).bit_length()))


_COMMON = dict(num_layers=2, decay_from=0.5, eval_items=256)
SIZES: dict[str, dict] = {
    "smoke": dict(
        **_COMMON, d_model=48, sizes=suggest(d_state=16, conv_width=4, init_std=0.2),
        train_steps=1000, batch_size=64, learning_rate=5e-3,
        warmup_steps=50, eval_batch=256,
    ),
    "small": dict(
        **_COMMON, d_model=128, sizes=suggest(d_state=16, conv_width=4),
        train_steps=6000, batch_size=128, learning_rate=2e-3, warmup_steps=200,
        eval_batch=128,
    ),
}  # fmt: skip
TIMES = {"smoke": (1, 2, 4), "small": (1, 2, 4, 8, 16)}
"""Stages of training, as multiples of the shortest context, which has no noise to see through."""


class Mqar(Task):
    """Several facts at once: how many pairs does a state of this size hold, and for how long?"""

    class Params(Task.Params):
        pairs: int = Field(4, ge=1, le=128, description="pairs of key and value in a context")
        gap: int | None = Field(
            None, ge=0, description="tokens between the last pair and the queries; null: all that remain"
        )
        vocabulary: int = Field(
            32, ge=4, le=16384, multiple_of=2, description="half keys, half values; chance is 2 / vocabulary"
        )
        noise: Literal["values", "blank"] = Field(
            "values", description="tokens that belong to no pair: random values, or one blank token"
        )

        @model_validator(mode="after")
        def _enough_keys(self):
            if self.pairs > self.vocabulary // 2:
                raise ValueError(
                    f"{self.pairs} pairs need as many keys, which are half of the vocabulary; "
                    f"vocabulary must be at least {2 * self.pairs}"
                )
            return self

    metric = Metric(name="accuracy", best=1.0, higher_is_better=True)
    log_metric = LOG_PROBABILITY
    more_metrics = (log_metric,)
    data_fingerprint = "generated"

    def __init__(self, params: Params | None = None) -> None:
        super().__init__(params)
        self.min_length = 2 * self.params.pairs + (self.params.gap or 0)

    def recipe(self, preset: str, layout: Layout) -> Recipe:
        """Numbers of a preset, for these pairs: `smoke` takes a minute on a CPU, `small` some on a GPU."""
        if preset not in SIZES:
            raise LookupError(f"mqar has no preset '{preset}'. It has: {', '.join(SIZES)}")
        shortest, pairs, stages = self.min_length, self.params.pairs, TIMES[preset]
        return Recipe(
            **SIZES[preset], train_length=shortest * stages[-1], train_queries=(pairs, pairs),
            stages=tuple((shortest * times,) for times in stages),
            eval_lengths=_doubling(shortest, 64 * shortest * stages[-1]), eval_queries=pairs,
        )  # fmt: skip

    def check(self, recipe: Recipe) -> None:
        """Refuse contexts without room for pairs and gap."""
        check_lengths("mqar", self.min_length, recipe)

    def interface(self, d_model: int, layout: Layout) -> nn.Module:
        """Values, keys and the blank in; values out."""
        return SymbolInterface(self.params.vocabulary + 1, self.params.vocabulary // 2, d_model, layout)

    def sample(self, num_items: int, length: int, num_queries: int, generator: torch.Generator) -> Batch:
        """Contexts `(num_items, length)` int16: values are 0 to V/2 - 1, keys V/2 to V - 1, the blank V."""
        params, pairs, half = self.params, self.params.pairs, self.params.vocabulary // 2
        like, short = dict(generator=generator, device=generator.device), torch.int16
        if params.noise == "blank":
            tokens = torch.full((num_items, length), 2 * half, dtype=short, device=generator.device)
        else:
            tokens = torch.randint(half, (num_items, length), dtype=short, **like)
        keys = half + torch.rand(num_items, half, **like).argsort(dim=1)[:, :pairs]
        values = torch.randint(half, keys.shape, **like)
        first = 0 if params.gap is None else length - self.min_length
        tokens[:, first : first + 2 * pairs] = torch.stack([keys, values], dim=2).flatten(1)
        asked = torch.rand(num_items, pairs, **like).argsort(dim=1)
        asked = asked[:, torch.arange(num_queries, device=generator.device) % pairs]
        return Batch({"tokens": tokens}, {"tokens": keys.gather(1, asked)}, values.gather(1, asked))

    def eval_set(self, num_items: int, seed: int) -> EvalSet:
        """Fixed draws of `sample`, the same number of items at every length."""
        return SampledItems(self, num_items, seed, MAX_QUERIES)

    def loss(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy of each query, nats."""
        return class_losses(predictions, targets)

    def score(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """1 where the likeliest value is right, else 0."""
        return is_right(predictions, targets)

    def references(self, eval_set: EvalSet, num_queries: int, metric: Metric) -> Mapping[str, float]:
        """What equal odds for all answers score."""
        return {"chance": chance_of(metric, self.params.vocabulary // 2)}
