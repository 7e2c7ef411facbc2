"""Trainings that differ in nothing but their seed, as one: a step of all is one set of launches.

Each training ends with the numbers that it would have in a stack of one, bit for bit, which is how it trains
alone. It draws its own lengths and items with its own generator, as many as alone; the stack runs at a
length that holds the longest, and what is before a training's first token is left out. Weights, moments and
losses of a training are views of those of the stack, so that it is saved and resumed by itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from lgbench.intervention import ScanIntervention
from lgbench.method import Method
from lgbench.models.stacked import StackedModel, stacks
from lgbench.ops.stacked import total
from lgbench.run.graphs import MAX_BUCKETS, capture, drawn_length
from lgbench.run.optimizer import adam, set_rate
from lgbench.run.schedule import draw_lengths, learning_rate
from lgbench.task import Draw, Task

if TYPE_CHECKING:
    from lgbench.run.train import Trainer


class Bucket(NamedTuple):
    """What a stack keeps for sequences of one length."""

    drawn: Draw
    """Of all trainings, the numbers that a step reads; contexts end together."""
    graph: torch.cuda.CUDAGraph | None
    losses: Tensor | None
    """`(trainings,)`, written when the graph is replayed."""


class Stack:
    """One optimiser step of several trainings at a time.

    Args:
        trainers: at least one, alike but for the seed and at the same step; `fits` is true of each.
    """

    def __init__(self, trainers: Sequence[Trainer]) -> None:
        self.trainers = list(trainers)
        first = self.trainers[0]
        self.training, self.recipe, self.task, self.device = (
            first.training,
            first.recipe,
            first.task,
            first.device,
        )
        self.stream = first.stream
        self.num_queries = self.recipe.train_queries[1]
        self.after = self.num_queries + first.model.interface.separators
        longest = self.training.high + self.after
        self.model = StackedModel([t.model for t in self.trainers], self.recipe.batch_size, longest)
        chunk, lengths = self.model.chunk, self.training.high - self.training.low + 1
        self.width = chunk * math.ceil(lengths / MAX_BUCKETS / chunk)
        if self.device.type == "cpu":  # there a sum depends on the length: keep to one
            self.width = chunk * math.ceil(longest / chunk)
        self.parameters = [self.model.weights]
        self.carried: dict[str, Tensor] = {}
        self.generator = torch.Generator(self.device)  # of a captured step, which draws nothing
        self.optimizer = adam([{"params": self.parameters}], self.recipe, self.device)
        self.log = torch.stack([t.log for t in self.trainers], dim=1)
        self._share()
        self.places = torch.zeros(3, len(self.trainers), dtype=torch.int32, device=self.device)
        self.buckets: dict[int, Bucket] = {}
        self.pool = None
        if self.stream is not None:
            self.pool = torch.cuda.graph_pool_handle()
            torch.cuda.synchronize(self.device)

    def one_step(self) -> None:
        """One optimiser step of each training, queued on the stack's stream."""
        step, batch = self.trainers[0].step, self.recipe.batch_size
        numbers = [draw_lengths(t.training, step)[:2] for t in self.trainers]
        lengths = [drawn_length(self.training, length) for length, _ in numbers]
        whole = self.width * math.ceil((max(lengths) + self.after) / self.width)
        with torch.cuda.stream(self.stream):
            set_rate(self.optimizer, learning_rate(self.recipe, step))
            if whole not in self.buckets:
                self.buckets[whole] = self._bucket(whole)
            drawn, graph, losses = self.buckets[whole]
            for k, (trainer, length) in enumerate(zip(self.trainers, lengths, strict=True)):
                own = self.task.draw(batch, length, self.num_queries, trainer.generator)
                self._put(own, drawn, k)
                trainer.counted += batch * sum(numbers[k])
                trainer.step += 1
            self.places.copy_(self._places(numbers, whole), non_blocking=True)
            if graph is None:
                losses = self._compute(drawn, whole)
            else:
                graph.replay()
            self.log[step % len(self.log)].copy_(losses)

    def _compute(self, drawn: Draw, whole: int) -> Tensor:
        """Forward, backward, clip and update; the loss of each training before it."""
        starts, num_queries = self.places[:2], self.places[2]
        batch = self.task.render(drawn, whole - self.after)
        losses = self.task.loss(self.model.answer(batch, starts), batch.targets)
        losses = losses.view(len(self.trainers), self.recipe.batch_size, -1)
        asked = torch.arange(self.num_queries, device=self.device) < num_queries[:, None, None]
        counts = self.recipe.batch_size * num_queries
        loss = total(losses.masked_fill(~asked, 0).flatten(1)) / counts
        loss.backward(torch.ones_like(loss))
        gradients = self.model.gradients()
        norms = total(gradients.square()).sqrt()
        scales = (self.recipe.grad_clip / (norms + 1e-6)).clamp(max=1)
        self.model.weights.grad = gradients * scales[:, None]
        self.optimizer.step()
        self.model.weights.grad = None
        return loss.detach()

    def _bucket(self, whole: int) -> Bucket:
        """Room for the draws of all trainings at a length, filled with valid ones, and the step captured."""
        context, some = whole - self.after, torch.Generator(self.device).manual_seed(0)
        drawn = self.task.draw(len(self.trainers) * self.recipe.batch_size, context, self.num_queries, some)
        drawn = Draw(*({n: v.contiguous() for n, v in part.items()} for part in drawn))
        if self.stream is None:
            return Bucket(drawn, None, None)
        full = [(min(context, self.training.high), self.num_queries)] * len(self.trainers)
        self.places.copy_(self._places(full, whole))
        return Bucket(drawn, *capture(self, self.pool, lambda: self._compute(drawn, whole)))

    def _places(self, numbers: list[tuple[int, int]], whole: int) -> Tensor:
        """First real step of each training, the same rounded down to a chunk, and its queries: `(3, …)`."""
        starts = [whole - self.after - length for length, _ in numbers]
        floors = [start // self.model.chunk * self.model.chunk for start in starts]
        return torch.tensor([starts, floors, [queries for _, queries in numbers]], dtype=torch.int32)

    def _put(self, own: Draw, drawn: Draw, k: int) -> None:
        """Write the draws of a training to its place; its context and queries end where all end."""
        rows = slice(k * self.recipe.batch_size, (k + 1) * self.recipe.batch_size)
        for name, values in own.items.items():
            drawn.items[name][rows].copy_(values)
        for name, values in own.tokens.items():
            drawn.tokens[name][rows, -values.shape[1] :].copy_(values)

    def _share(self) -> None:
        """Make moments and losses of each training views of the stack's, whose values are theirs."""
        ours = self.optimizer.state[self.model.weights]
        for k, trainer in enumerate(self.trainers):
            named = _named(trainer)
            for moment in ("exp_avg", "exp_avg_sq"):
                views = self.model.views(ours[moment][k], named)
                for name, view in zip(self.model.names, views, strict=True):
                    state = trainer.optimizer.state[named[name]]
                    view.copy_(state[moment])
                    state[moment] = view
            for state in trainer.optimizer.state.values():
                ours["step"].copy_(state["step"])
                state["step"] = ours["step"]
            trainer.log, trainer.stream, trainer.stack = self.log[:, k], self.stream, self


def fits(trainer: Trainer) -> bool:
    """Whether a training can be stacked: the fused blocks, a method that rests in training, a task that
    draws apart.

    On a CPU a stack is no faster, and trainings go on one after the other.
    """
    recipe, task, model = trainer.recipe, trainer.task, trainer.model
    plain = not recipe.stages and not recipe.lm_weight and not recipe.weight_decay
    rests = type(model.intervention) is ScanIntervention and not trainer.method.train_eagerly
    rests = rests and type(trainer.method).training_answer is Method.training_answer
    draws = task.exchangeable and type(task).draw is not Task.draw
    return plain and recipe.precision == "float32" and rests and draws and stacks(model)


def in_stacks(trainers: Sequence[Trainer]) -> None:
    """Stack what fits together: trainings that differ in nothing but their seed, at the same step."""
    groups: dict[tuple, list[Trainer]] = {}
    for trainer in trainers:
        if trainer.stack is None and trainer.device.type == "cuda" and fits(trainer):
            groups.setdefault((replace(trainer.training, seed=0), trainer.step), []).append(trainer)
    for group in groups.values():
        Stack(group)


def teams(trainers: Sequence[Trainer]) -> dict[Trainer, list[Trainer]]:
    """Trainings that step together, by the first; those outside of a stack are alone."""
    found: dict[object, list[Trainer]] = {}
    for trainer in trainers:
        found.setdefault(trainer.stack or trainer, []).append(trainer)
    return {team[0]: team for team in found.values()}


def _named(trainer: Trainer) -> dict[str, Tensor]:
    return dict(trainer.model.named_parameters())
