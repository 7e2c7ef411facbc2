"""Marked recall: name the symbol that followed the only marker, however long ago that was.

    context             7 3 # 5 1 4 2                    the marker # is token 8
    query               ?                                token 9; the answer here is 5
    with repeats=5      7 3 # 5 1 4 2 # 5 6 0 3 # 5      the marked pair comes again every 5 tokens

Without repeats more context is *longer*: one fact, further back. With repeats it is *denser*: the same fact
more often. Up to `repeats` + 1 tokens both are the same, so `repeats=L_train` leaves training as it is.
Further queries of an item ask the same again. Source: our own; the nearest published task is selective
copying (Gu and Dao, arXiv:2312.00752, §4.1.1).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import Field, field_validator
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

MAX_QUERIES = 128
"""Of an evaluation item."""


def _doubling(low: int, high: int) -> tuple[int, ...]:
    return tuple(low << k for k in range((high // low).bit_length()))


_COMMON = dict(num_layers=2, train_queries=(1, 1), eval_queries=1)
RECIPES: dict[str, Recipe] = {
    "smoke": Recipe(
        **_COMMON, d_model=32, sizes=suggest(d_state=8, init_std=0.3),
        train_length=32, train_steps=800, batch_size=64, learning_rate=5e-3,
        warmup_steps=50, decay_from=0.5, eval_lengths=_doubling(4, 2048), eval_items=256, eval_batch=256,
    ),
    "small": Recipe(
        **_COMMON, d_model=64, sizes=suggest(d_state=16, init_std=0.3),
        train_length=256, train_steps=4000, batch_size=128,
        learning_rate=3e-3, warmup_steps=200, decay_from=0.5, stages=((32,), (64,), (128,), (256,)),
        eval_lengths=_doubling(4, 16384), eval_items=512, eval_batch=128,
    ),
}  # fmt: skip


class MarkedRecall(Task):
    """One bit of routing and one symbol of memory: isolates forgetting from everything else."""

    class Params(Task.Params):
        num_symbols: int = Field(
            8, ge=2, le=250, description="size of the alphabet; chance is 1 / num_symbols"
        )
        repeats: int = Field(
            0, ge=0, description="tokens from one marked pair to the next, 2 or more; 0: it stands once"
        )

        @field_validator("repeats")
        @classmethod
        def _room_for_a_pair(cls, repeats: int) -> int:
            if repeats == 1:
                raise ValueError("a marked pair takes two tokens, so repeats is 0 or at least 2")
            return repeats

    metric = Metric(name="accuracy", best=1.0, higher_is_better=True, interval="wilson")
    log_metric = LOG_PROBABILITY
    more_metrics = (log_metric,)
    min_length = 2
    data_fingerprint = "generated"

    def recipe(self, preset: str, layout: Layout) -> Recipe:
        """Numbers of a preset: `smoke` takes half a minute on a CPU, `small` minutes on a GPU."""
        if preset not in RECIPES:
            raise LookupError(f"marked_recall has no preset '{preset}'. It has: {', '.join(RECIPES)}")
        return RECIPES[preset]

    def check(self, recipe: Recipe) -> None:
        """Refuse contexts without room for the pair."""
        check_lengths("marked_recall", self.min_length, recipe)

    def interface(self, d_model: int, layout: Layout) -> nn.Module:
        """Symbols, marker and question in; symbols out."""
        return SymbolInterface(self.params.num_symbols + 2, self.params.num_symbols, d_model, layout)

    def sample(self, num_items: int, length: int, num_queries: int, generator: torch.Generator) -> Batch:
        """Contexts `(num_items, length)` uint8, where the marked pair stands first anywhere in its period."""
        symbols, period = self.params.num_symbols, self.params.repeats or length
        like = dict(generator=generator, device=generator.device)
        tokens = torch.randint(symbols, (num_items, length), dtype=torch.uint8, **like)
        first = torch.randint(min(period, length - 1), (num_items, 1), **like)
        answer = tokens.gather(1, first + 1)
        places = first + torch.arange(0, length - 1, period, device=generator.device)
        places = places.where(places < length - 1, first)  # what has no room falls on the first pair
        tokens.scatter_(1, places + 1, answer.expand_as(places))
        tokens.scatter_(1, places, torch.full_like(places, symbols, dtype=torch.uint8))
        targets = answer.long().expand(-1, num_queries)
        return Batch({"tokens": tokens}, {"tokens": torch.full_like(targets, symbols + 1)}, targets)

    def eval_set(self, num_items: int, seed: int) -> EvalSet:
        """Fixed draws of `sample`, the same number of items at every length."""
        return SampledItems(self, num_items, seed, MAX_QUERIES)

    def loss(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy of each query, nats."""
        return class_losses(predictions, targets)

    def score(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """1 where the likeliest symbol is right, else 0."""
        return is_right(predictions, targets)

    def references(self, eval_set: EvalSet, num_queries: int, metric: Metric) -> Mapping[str, float]:
        """What equal odds for all answers score."""
        return {"chance": chance_of(metric, self.params.num_symbols)}
