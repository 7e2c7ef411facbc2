"""One training, step by step: eagerly, or as captured CUDA graphs, a few of which serve all lengths exactly.

A step runs at the upper end of its length's bucket, with the surplus masked out on the left: Δ = 0 leaves a
state untouched. Where context tokens are independent draws, sampling is part of the graph (`SampledGraphs`);
elsewhere a batch is drawn outside and copied in (`BatchGraphs`).
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TypeVar

import torch
from torch import Tensor

from lgbench.task import Batch, Tensors

if TYPE_CHECKING:
    from lgbench.plan.cells import Training
    from lgbench.run.stack import Stack
    from lgbench.run.train import Trainer

MAX_BUCKETS = 16
"""Captured graphs a training; more waste less on padding and take longer to capture."""

Found = TypeVar("Found", Tensor, tuple[Tensor, Tensor])
"""What a step returns: the losses of a stack, or loss and accuracy of one training."""


class Stepper(Protocol):
    """One optimiser step of a training, at lengths that are drawn."""

    def step(self, length: int, num_queries: int, stage: int) -> tuple[Tensor, Tensor]:
        """Queue it; returns loss and accuracy."""


def stepper_of(trainer: Trainer) -> Stepper:
    """What steps a training by itself: captured graphs on a GPU, where backbone and method allow them."""
    capturable = trainer.model.backbone.capturable and not trainer.method.train_eagerly
    if trainer.stream is None or not capturable:
        return Eager(trainer)
    return SampledGraphs(trainer) if trainer.task.exchangeable else BatchGraphs(trainer)


class Eager:
    """Operation by operation, at the exact lengths."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def step(self, length: int, num_queries: int, stage: int) -> tuple[Tensor, Tensor]:
        """Draw and update."""
        trainer = self.trainer
        if trainer.task.exchangeable:
            return trainer.compute(length, num_queries, length, num_queries)
        batch = trainer.draw(length, num_queries, stage)
        return trainer.update(batch, trainer.task.context_tokens(length))


class SampledGraphs:
    """One captured training step per bucket of context lengths, on the trainer's stream."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.pool = torch.cuda.graph_pool_handle()
        self.length = torch.zeros((), dtype=torch.long, device=trainer.device)
        self.num_queries = torch.zeros((), dtype=torch.long, device=trainer.device)
        self.captured: dict[int, tuple[torch.cuda.CUDAGraph, tuple[Tensor, Tensor]]] = {}

    def step(self, length: int, num_queries: int, stage: int) -> tuple[Tensor, Tensor]:
        """Replay the graph of this length's bucket; returns its static loss and accuracy."""
        bucket = drawn_length(self.trainer.training, length)
        if bucket not in self.captured:
            self.captured[bucket] = self._capture(bucket)
        self.length.fill_(length)
        self.num_queries.fill_(num_queries)
        graph, found = self.captured[bucket]
        graph.replay()
        return found

    def _capture(self, bucket: int) -> tuple[torch.cuda.CUDAGraph, tuple[Tensor, Tensor]]:
        trainer = self.trainer
        low, high = trainer.recipe.train_queries
        length = self.length if bucket > trainer.training.low else bucket
        num_queries = self.num_queries if high > low else high
        self.length.fill_(bucket)
        self.num_queries.fill_(high)
        return capture(trainer, self.pool, lambda: trainer.compute(length, num_queries, bucket, high))


def drawn_length(training: Training, length: int) -> int:
    """Context tokens that a step of `length` draws: the upper end of its bucket."""
    width = max(1, math.ceil((training.high - training.low + 1) / MAX_BUCKETS))
    above = math.ceil((length - training.low + 1) / width) * width
    return min(training.high, training.low - 1 + above)


class BatchGraphs:
    """One captured training step per shape of a padded batch, on the trainer's stream."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.pool = torch.cuda.graph_pool_handle()
        self.length = torch.zeros((), dtype=torch.long, device=trainer.device)
        self.captured: dict[tuple[int, ...], tuple[Batch, torch.cuda.CUDAGraph, tuple[Tensor, Tensor]]] = {}
        longest = trainer.task.context_tokens(trainer.training.high)
        self.width = max(1, math.ceil(longest / MAX_BUCKETS))

    def step(self, length: int, num_queries: int, stage: int) -> tuple[Tensor, Tensor]:
        """Draw, pad, copy into the graph's own batch and replay; returns its static loss and accuracy."""
        batch = self.trainer.draw(length, num_queries, stage)
        tokens = next(iter(batch.context.values())).shape[1]
        padded = pad_left(batch, math.ceil(tokens / self.width) * self.width)
        shape = tuple(
            n for part in (padded.context, padded.queries) for v in part.values() for n in v.shape[:2]
        )
        if shape not in self.captured:
            self.captured[shape] = self._capture(padded)
        static, graph, found = self.captured[shape]
        for mine, drawn in ((static.context, padded.context), (static.queries, padded.queries)):
            for name, values in drawn.items():
                mine[name].copy_(values)
        static.targets.copy_(padded.targets)
        self.length.fill_(self.trainer.task.context_tokens(length))
        graph.replay()
        return found

    def _capture(self, batch: Batch) -> tuple[Batch, torch.cuda.CUDAGraph, tuple[Tensor, Tensor]]:
        static = Batch(
            {name: v.clone() for name, v in batch.context.items()},
            {name: v.clone() for name, v in batch.queries.items()},
            batch.targets.clone(),
        )
        return static, *capture(self.trainer, self.pool, lambda: self.trainer.update(static, self.length))


def pad_left(batch: Batch, width: int) -> Batch:
    """The same items in `width` context tokens; the new ones, in front, are masked."""
    first = next(iter(batch.context.values()))
    added = width - first.shape[1]
    mask = batch.context.get("mask", torch.ones(first.shape[:2], dtype=torch.bool, device=first.device))
    context: Tensors = {}
    for name, values in {**batch.context, "mask": mask}.items():
        front = values.new_zeros(values.shape[0], added, *values.shape[2:])
        context[name] = torch.cat([front, values], dim=1)
    return Batch(context, batch.queries, batch.targets)


def capture(
    trainer: Trainer | Stack, pool: object, step: Callable[[], Found]
) -> tuple[torch.cuda.CUDAGraph, Found]:
    """Run a step once, which compiles kernels and warms up libraries, undo it, and capture it.

    Python's garbage collector waits meanwhile: it might free the graphs of an earlier training, which a
    device that is capturing does not permit, and which spoils the capture.
    """
    moments = (v for s in trainer.optimizer.state.values() for v in s.values())
    changed = [*trainer.parameters, *moments, *trainer.carried.values()]
    before = [t.detach().clone() for t in changed]
    random_state = trainer.generator.get_state()
    step()
    with torch.no_grad():
        for tensor, value in zip(changed, before, strict=True):
            tensor.copy_(value)
    trainer.generator.set_state(random_state)
    graph = torch.cuda.CUDAGraph()
    graph.register_generator_state(trainer.generator)
    with (
        no_garbage_collection(),
        torch.cuda.graph(graph, pool=pool, stream=trainer.stream, capture_error_mode="thread_local"),
    ):
        found = step()
    return graph, found


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """What nobody refers to stays alive in here, unless no cycle holds it."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
