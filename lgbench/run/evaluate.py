"""Measure a trained model over a grid of lengths: in one pass where that is exact, streamed wherever
possible.

    nested items, causal backbone, prefix-exact method     one pass; the state at every grid length answers
                                                           the queries
    causal backbone otherwise                              one streamed pass a length
    a method that must see the whole prompt, a transformer one pass a length, in one piece

Streaming keeps memory constant in the length. Answering does not touch the kept state. Where memory runs out
all the same, fewer items are read at a time; what fits even then not is given up, and no other length is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lgbench.backbone import state_bytes
from lgbench.intervention import changing_hooks, overridden_hooks
from lgbench.method import Method
from lgbench.models.language import answer_bits
from lgbench.models.model import Model
from lgbench.run.clock import Clock
from lgbench.run.measurement import Measurement, item_means
from lgbench.run.reading import PIECE, ContextReader, Window
from lgbench.run.room import Lost, NoRoom, Room
from lgbench.task import Batch, EvalSet, Recipe, Task, Tensors

Fitted = Mapping[int, Mapping[str, Tensor]]
"""Parameters of a calibrated method by context length."""


@torch.no_grad()
def evaluate(
    model: Model,
    task: Task,
    method: Method,
    recipe: Recipe,
    items: EvalSet,
    on_progress: Callable[[str], None] = lambda what: None,
    fitted: Fitted = MappingProxyType({}),
    lost: list[Lost] | None = None,
) -> list[Measurement]:
    """All points of all axes that memory has room for.

    Args:
        model: trained; put into evaluation mode here.
        task: prepared.
        method: decides whether prefixes are exact.
        recipe: lengths, queries and items of the evaluation.
        items: the fixed items.
        on_progress: told what is measured next.
        fitted: parameters of a calibrated method by context length; see `ScanIntervention.use`.
        lost: gets the points that memory has no room for: a length and all longer ones.
    """
    model.eval()
    run = _Evaluation(model, task, method, recipe, items)
    lost = [] if lost is None else lost
    found: list[Measurement] = []
    with autocast(task.device, recipe):
        if run.streamed and task.nested and method.prefix_exact:
            found += run.shared_contexts(recipe.eval_lengths, fitted, on_progress, lost)
        else:
            found += run.contexts(recipe.eval_lengths, fitted, on_progress, lost)
        if recipe.query_grid:
            on_progress(f"queries {recipe.query_grid[0]} to {recipe.query_grid[-1]}")
            model.intervention.use(fitted.get(recipe.train_length, {}))
            found += run.queries(recipe.query_grid, lost)
    return found


def autocast(device: torch.device, recipe: Recipe) -> torch.autocast:
    """The precision of evaluation and calibration."""
    return torch.autocast(device.type, torch.bfloat16, enabled=recipe.eval_precision == "bfloat16")


class _Evaluation:
    """One model on one set of items. Methods give the measurements of a part of the grid."""

    def __init__(self, model: Model, task: Task, method: Method, recipe: Recipe, items: EvalSet) -> None:
        self.model, self.task, self.method, self.recipe, self.items = model, task, method, recipe, items
        self.reader = ContextReader(model, method, task.context_tokens, recipe.train_length)
        self.streamed = self.reader.streamed
        self.room = Room(min(recipe.eval_batch, items.num_items))
        self.at = 0
        """The length that is measured at this moment."""
        model.acted = False

    def shared_contexts(
        self, grid: tuple[int, ...], fitted: Fitted, on_progress: Callable[[str], None], lost: list[Lost]
    ) -> list[Measurement]:
        """All lengths in one pass; where one has no room, those before it in another."""
        while grid:
            on_progress(f"context {grid[0]} to {grid[-1]}")
            self.model.intervention.use(fitted.get(grid[-1], {}))
            try:
                return self.room.fit(partial(self.streamed_grid, grid, shared=True), in_pieces=True)
            except NoRoom as error:
                place = grid.index(self.at)
                lost += self._lost(grid[place:], error)
                grid = grid[:place]
        return []

    def contexts(
        self, grid: tuple[int, ...], fitted: Fitted, on_progress: Callable[[str], None], lost: list[Lost]
    ) -> list[Measurement]:
        """Length by length, up to the first that has no room."""
        found: list[Measurement] = []
        for place, length in enumerate(grid):
            on_progress(f"context {length}")
            self.model.intervention.use(fitted.get(length, {}))
            views = self.reader.views(self.items.num_tokens(length))
            measure = partial(self.averaged, length, views) if views else partial(self.whole, length)
            if self.streamed and not views:
                measure = partial(self.streamed_grid, (length,))
            try:
                found += self.room.fit(measure, in_pieces=self.streamed)
            except NoRoom as error:
                lost += self._lost(grid[place:], error)
                break
        return found

    def queries(self, grid: tuple[int, ...], lost: list[Lost]) -> list[Measurement]:
        """The axis of queries, up to the first number of them that has no room."""
        length = self.recipe.train_length
        while grid:
            try:
                return self.room.fit(partial(self.query_axis, grid), in_pieces=self.streamed)
            except NoRoom as error:
                lost.append(Lost("queries", length, grid[-1], str(error)))
                grid = grid[:-1]
        return []

    def _lost(self, lengths: tuple[int, ...], error: NoRoom) -> list[Lost]:
        return [Lost("context", length, self.recipe.eval_queries, str(error)) for length in lengths]

    def streamed_grid(self, grid: tuple[int, ...], shared: bool = False) -> list[Measurement]:
        """Stream each batch of items once through the grid; answer at every length from the kept state.

        Without `shared` the grid is a single length.
        """
        task, items, num_queries = self.task, self.items, self.recipe.eval_queries
        scores: dict[int, list[dict[str, Tensor]]] = {length: [] for length in grid}
        losses: list[list[Tensor]] = []
        carried: dict[int, int] = {}
        clock, last = Clock(task.device), items.num_tokens(grid[-1])
        first = 0 if shared else self._window(grid[-1])[0]
        count = items.num_items_at(grid[-1])
        for chosen in self.room.batches(count):
            state, start, summed = None, first, []
            for length in grid:
                self.at = length
                stop = items.num_tokens(length)
                state, loss = self._read(chosen, state, start, stop, grid[-1] if shared else length)
                summed.append(loss)
                start = stop
                carried[length] = state_bytes(state) // (chosen.stop - chosen.start)
                scores[length].append(self._scores_from(state, chosen, length))
            losses.append(summed)
            clock.lap(chosen.stop / count)
        taken = self._taken(clock, count * (last + len(grid) * num_queries))
        kept = tuple(last - first + asked for asked in self.model.backbone.processed) if first else ()
        found = [
            m
            for length in grid
            for m in self._points(length, scores[length], shared_prefix=shared, kept_tokens=kept, **taken)
        ]
        if task.lm_metric is not None and first == 0:
            found += self._token_losses(grid, losses, shared_prefix=shared, kept_tokens=kept, **taken)
        return [replace(m, state_bytes=carried[m.eval_length]) for m in found]

    def whole(self, length: int) -> list[Measurement]:
        """Context and queries in one piece, at one length."""
        num_queries = self.recipe.eval_queries
        clock = Clock(self.task.device)
        scores = list(self._whole_scores(length, num_queries, clock))
        tokens = self.items.num_items_at(length) * (self.items.num_tokens(length) + num_queries)
        taken = self._taken(clock, tokens)
        return self._points(length, scores, shared_prefix=False, kept_tokens=self._kept(), **taken)

    def averaged(self, length: int, views: tuple[Tensor, ...]) -> list[Measurement]:
        """The mean of the answers after each of the views of a context, at one length."""
        items, num_queries, scores = self.items, self.recipe.eval_queries, []
        clock, count = Clock(self.task.device), items.num_items_at(length)
        for chosen in self.room.batches(count):
            queries, targets = items.queries(chosen, length, num_queries)
            read = partial(_context, items, chosen, length)
            predictions = self.reader.averaged(read, queries, targets, views)
            scores.append(item_means(self._scores(predictions, targets)))
            clock.lap(chosen.stop / count)
        taken = self._taken(clock, count * sum(len(view) + num_queries for view in views))
        return self._points(length, scores, shared_prefix=False, kept_tokens=(), **taken)

    def query_axis(self, grid: tuple[int, ...]) -> list[Measurement]:
        """Errors over the first k queries at a context of the training length, for each k of the grid.

        Where queries are causal one pass of the longest serves all k; otherwise each k needs its own.
        """
        task, items, length = self.task, self.items, self.recipe.train_length
        found: list[Measurement] = []
        tokens_in, kept = items.num_tokens(length), ()
        first, told = self._window(length)
        count = items.num_items_at(length)
        clock = Clock(task.device)
        if self.streamed:
            parts: dict[str, list[Tensor]] = {}
            for chosen in self.room.batches(count):
                state, _ = self._read(chosen, None, first, tokens_in, length)
                queries, targets = items.queries(chosen, length, grid[-1])
                predictions = self.model.answer_from(state, queries, grid[-1], told)
                for name, judged in self._scores(predictions, targets).items():
                    parts.setdefault(name, []).append(judged)
                clock.lap(chosen.stop / count)
            by_query = {name: torch.cat(several) for name, several in parts.items()}
            taken = self._taken(clock, count * (tokens_in + grid[-1]))
        for num_queries in grid:
            if self.streamed:
                scores = [item_means({name: values[:, :num_queries] for name, values in by_query.items()})]
            else:
                clock = Clock(task.device)
                scores, kept = list(self._whole_scores(length, num_queries, clock)), self._kept()
                taken = self._taken(clock, count * (tokens_in + num_queries))
            points = self._points(length, scores, shared_prefix=self.streamed, kept_tokens=kept, **taken)
            found += [replace(m, axis="queries", num_queries=num_queries) for m in points]
        return found

    def _scores_from(self, state: list, chosen: slice, length: int) -> dict[str, Tensor]:
        """Scores `(batch,)` by metric, answered from a kept state."""
        told = self._window(length)[1]
        queries, targets = self.items.queries(chosen, length, self.recipe.eval_queries)
        num_targets = targets.shape[1]
        if self.task.generates:
            prompt = _prompt(queries, num_targets)
            answers = self.model.generate_from(state, prompt, num_targets, told)
            grades = self._judged_grades(self.items.grade(chosen, length, answers))
            return grades | self._given(
                partial(self.model.answer_from, state, queries, num_targets, told), targets
            )
        predictions = self.model.answer_from(state, queries, num_targets, told)
        return item_means(self._scores(predictions, targets))

    def _whole_scores(self, length: int, num_queries: int, clock: Clock) -> Iterator[dict[str, Tensor]]:
        """The same for context and queries in one piece; longer sequences go in smaller batches."""
        items, model, tokens = self.items, self.model, self.items.num_tokens(length)
        first, told = self._window(length)
        size = max(1, min(self.room.batch, self.room.batch * PIECE // (tokens + num_queries)))
        count = items.num_items_at(length)
        for chosen in self.room.batches(count, size):
            queries, targets = items.queries(chosen, length, num_queries)
            context = items.context(chosen, first, tokens, length)
            read = partial(model.answer, Batch(context, queries, targets), mode="score", length=told)
            if self.task.generates:
                num_targets = targets.shape[1]
                prompt = _prompt(queries, num_targets)
                answers = model.generate(context, prompt, num_targets, told)
                grades = self._judged_grades(items.grade(chosen, length, answers))
                yield grades | self._given(read, targets)
            else:
                yield item_means(self._scores(read(), targets))
            clock.lap(chosen.stop / count)

    def _scores(self, predictions: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Scores `(batch, num_scores)` by metric of the latest answer."""
        task = self.task
        found = {task.metric.name: self._judged(task.score(predictions, targets))}
        if task.log_metric is not None:
            found[task.log_metric.name] = self._judged(-task.loss(predictions, targets) / math.log(2))
        return found

    def _given(self, answer: Callable[[], Tensor], targets: Tensor) -> dict[str, Tensor]:
        """Log-probability of right answers of several tokens, given to the model, where the task keeps it."""
        metric = self.task.log_metric
        return {} if metric is None else self._judged_grades({metric.name: answer_bits(answer(), targets)})

    def _judged(self, scores: Tensor) -> Tensor:
        """Scores `(batch, num_scores)`, ∞ where the model computed something that is not finite.

        A score may belong to several predictions (all right, or not): then one bad prediction spoils it.
        """
        sound = self.model.sound
        if sound.shape != scores.shape:
            sound = sound.all(dim=1, keepdim=True)
        return scores.masked_fill(~sound, torch.inf)

    def _judged_grades(self, grades: dict[str, Tensor]) -> dict[str, Tensor]:
        """The same for scores `(batch,)` by metric; NaN, where a metric does not apply, stays."""
        sound = self.model.sound.all(dim=1)
        return {
            name: values.masked_fill(~sound.to(values.device) & ~values.isnan(), torch.inf)
            for name, values in grades.items()
        }

    def _read(
        self, chosen: slice, state: list | None, start: int, stop: int, length: int
    ) -> tuple[list | None, Tensor | None]:
        """Stream context tokens `start` to `stop` of items of `length`.

        Also the sum of the losses of the tokens after them, `(batch,)` float64, where the task has a metric
        for it.
        """
        items, summed = self.items, None
        announced = self._window(length).announced
        if self.task.lm_metric is None:
            read = partial(_context, items, chosen, length)
            step = self.room.piece_of(chosen.stop - chosen.start)
            return self.reader.stream(read, Window(start, announced), stop, state, step), None
        while start < stop:
            end = min(stop, start + min(PIECE, self.room.piece or PIECE))
            tokens = items.context(chosen, start, end + 1, length)["tokens"]
            losses, state = self.model.read_tokens(
                {"tokens": tokens[:, :-1]}, tokens[:, 1:], state, announced
            )
            summed = losses.double().sum(dim=1) + (0 if summed is None else summed)
            start = end
        return state, summed

    def _token_losses(
        self, grid: tuple[int, ...], losses: list[list[Tensor]], **measured: Any
    ) -> Iterator[Measurement]:
        """The metric over all tokens up to each length, and over those between two neighbours of the grid."""
        sums = torch.cat([torch.stack(summed, dim=1) for summed in losses]).cpu().numpy()
        edges = np.array([self.items.num_tokens(length) for length in grid])
        common = dict(metric=self.task.lm_metric, num_queries=self.recipe.eval_queries, **measured)
        for k, length in enumerate(grid):
            upto, between = sums[:, : k + 1].sum(axis=1) / edges[k], edges[k] - (edges[k - 1] if k else 0)
            at = dict(eval_length=length, context_tokens=int(edges[k]), **common)
            at["clusters"] = self._clusters(length)
            yield Measurement(axis="context", values=upto.astype(np.float32), **at)
            if len(grid) > 1:
                here = (sums[:, k] / between).astype(np.float32)
                yield Measurement(axis="position", values=here, **at)

    def _points(self, length: int, scores: list[dict[str, Tensor]], **measured: Any) -> list[Measurement]:
        """A measurement for each metric that `scores` has, of the items that it applies to."""
        facts, clusters = self.items.facts(length), self._clusters(length)
        found = []
        for metric in self.task.metrics:
            if metric.name not in scores[0]:
                continue
            values = torch.cat([part[metric.name] for part in scores]).float().cpu().numpy()
            applies = ~np.isnan(values) if self.task.generates else np.ones(len(values), dtype=bool)
            if not applies.any():
                continue
            found.append(
                Measurement(
                    metric=metric, axis="context", eval_length=length,
                    context_tokens=self.items.num_tokens(length), num_queries=self.recipe.eval_queries,
                    values=values[applies],
                    facts={name: [v for v, on in zip(list_, applies, strict=True) if on]
                           for name, list_ in facts.items()},
                    clusters=tuple(c for c, on in zip(clusters, applies, strict=bool(clusters)) if on),
                    **measured,
                )
            )  # fmt: skip
        return found

    def _clusters(self, length: int) -> tuple[str, ...]:
        """What each item belongs to; empty where items are independent."""
        return tuple(map(str, self.items.facts(length).get("cluster", ())))

    def _taken(self, clock: Clock, tokens: int) -> dict[str, Any]:
        """Time, memory and back end of what was just measured."""
        wall_s, peak = clock.stop()
        return {
            "wall_s": wall_s,
            "peak_bytes": peak,
            "tokens": tokens,
            "warm_tokens_per_s": clock.warm_rate(tokens, wall_s),
            "scan_backend": self.model.backend_name(self.task.device, self.recipe.d_model),
            "at_rest": self._at_rest(),
        }

    def _at_rest(self) -> bool:
        """Whether a method that may change something changed nothing since the last measurement."""
        acted, self.model.acted = self.model.acted, False
        return bool(changing_hooks(self.model.intervention)) and not acted

    def _window(self, length: int) -> Window:
        return self.reader.window(length, self.items.num_tokens(length))

    def _kept(self) -> tuple[int, ...]:
        """Tokens that each layer processed, for methods that may drop some."""
        return self.model.backbone.processed if "keep" in overridden_hooks(self.model.intervention) else ()


def _context(items: EvalSet, chosen: slice, extent: int, start: int, stop: int) -> Tensors:
    return items.context(chosen, start, stop, extent)


def _prompt(queries: Tensors, num_targets: int) -> Tensors:
    """The prompt's end, from queries that go on with the answer."""
    return {name: values[:, : values.shape[1] - num_targets + 1] for name, values in queries.items()}
