"""Measure a trained model over a grid of lengths: in one pass where that is exact, streamed wherever
possible.

    nested items, causal backbone, prefix-exact method     one pass; the state at every grid length answers
    the queries causal backbone otherwise                              one streamed pass a length
    a method that must see the whole prompt, a transformer one pass a length, in one piece

Streaming keeps memory constant in the length. Answering does not touch the kept state.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lgbench.method import Method
from lgbench.models.intervention import overridden_hooks
from lgbench.models.model import Model
from lgbench.task import Batch, EvalSet, Recipe, Task

PIECE = 4096
"""Context tokens that are embedded and scanned at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """The metric of every item at one point of one axis."""

    axis: Literal["context", "queries"]
    eval_length: int
    num_queries: int
    values: np.ndarray
    """float32 `(num_items,)`."""
    shared_prefix: bool
    kept_tokens: tuple[int, ...]
    """Tokens that each layer processed, queries included; empty for methods that drop none."""
    scan_backend: str
    """What computed scan or attention; a method that rests at this length may leave it to a faster one."""
    wall_s: float
    tokens: int
    peak_bytes: int


@torch.no_grad()
def evaluate(
    model: Model,
    task: Task,
    method: Method,
    recipe: Recipe,
    items: EvalSet,
    on_progress: Callable[[str], None] = lambda what: None,
    fitted: Mapping[int, Mapping[str, Tensor]] = MappingProxyType({}),
) -> list[Measurement]:
    """All points of both axes.

    Args:
        model: trained; put into evaluation mode here.
        task: prepared.
        method: decides whether prefixes are exact.
        recipe: lengths, queries and items of the evaluation.
        items: the fixed items.
        on_progress: told what is measured next.
        fitted: parameters of a calibrated method by context length; see `ScanIntervention.use`.
    """
    model.eval()
    grid, num_queries = recipe.eval_lengths, recipe.eval_queries
    streamed = can_stream(model)
    shared = streamed and task.nested and method.prefix_exact
    found: list[Measurement] = []
    on_progress(f"context {grid[0]} to {grid[-1]}" if shared else f"context {grid[0]}")
    if shared:
        model.intervention.use(fitted.get(grid[-1], {}))
        found += _measure(model, task, method, recipe, items, list(grid), num_queries, shared=True)
    else:
        for length in grid:
            on_progress(f"context {length}")
            model.intervention.use(fitted.get(length, {}))
            run = _measure if streamed else _measure_whole
            found += run(model, task, method, recipe, items, [length], num_queries)
    if recipe.query_grid:
        on_progress(f"queries {recipe.query_grid[0]} to {recipe.query_grid[-1]}")
        model.intervention.use(fitted.get(recipe.train_length, {}))
        found += _query_axis(model, task, method, recipe, items, streamed)
    return found


def can_stream(model: Model) -> bool:
    """Whether a context can be read in pieces: it is causal, and no method chooses among all tokens."""
    return model.causal and "keep" not in overridden_hooks(model.intervention)


def gallery(
    model: Model,
    method: Method,
    recipe: Recipe,
    items: EvalSet,
    fitted: Mapping[int, Mapping[str, Tensor]] = MappingProxyType({}),
) -> dict[str, np.ndarray] | None:
    """What the model paints after every grid length, for the report; None if the task has nothing to show.

    Arguments as in `evaluate`.

    Returns:
        `truth` `(images, height, width)`, `reconstructions` `(images, lengths, height, width)`, `lengths`.
    """
    if not hasattr(items, "gallery_items"):
        return None
    model.eval()
    chosen = slice(0, items.gallery_items)
    queries = items.gallery_queries(chosen)
    num_queries = next(iter(queries.values())).shape[1]
    pictures = []
    with torch.no_grad():
        for length in recipe.eval_lengths:
            model.intervention.use(fitted.get(length, {}))
            first = method.first_token(length, recipe.train_length)
            if can_stream(model):
                state = _read(model, items, chosen, None, first, length, length, first)
                answer = model.answer_from(state, queries, num_queries, length - first)
            else:
                context = items.context(chosen, first, length, length)
                _, targets = items.queries(chosen, length, num_queries)
                answer = model.answer(Batch(context, queries, targets), mode="score", length=length - first)
            pictures.append(items.gallery_images(answer))
    return {
        "truth": items.gallery_truth(chosen),
        "reconstructions": np.stack(pictures, axis=1),
        "lengths": np.array(recipe.eval_lengths),
    }


def _measure(
    model: Model,
    task: Task,
    method: Method,
    recipe: Recipe,
    items: EvalSet,
    grid: list[int],
    num_queries: int,
    shared: bool = False,
) -> list[Measurement]:
    """Stream each batch of items once through the grid; answer at every grid length from the kept state."""
    scores: dict[int, list[Tensor]] = {length: [] for length in grid}
    clock = _Clock(task.device)
    first = 0 if shared else method.first_token(grid[0], recipe.train_length)
    for chosen in _batches(items.num_items, recipe.eval_batch):
        state, start = None, first
        for length in grid:
            total = grid[-1] if shared else length
            state = _read(model, items, chosen, state, start, length, total, first)
            start = length
            queries, targets = items.queries(chosen, length, num_queries)
            predictions = model.answer_from(state, queries, num_queries, length - first)
            scores[length].append(task.score(predictions, targets).mean(dim=1))
    values = {length: torch.cat(parts).float().cpu().numpy() for length, parts in scores.items()}
    tokens = items.num_items * (grid[-1] + len(grid) * num_queries)
    wall_s, peak = clock.stop()
    kept = tuple(grid[0] - first + asked for asked in model.backbone.processed) if first else ()
    backend = model.backend_name(task.device, recipe.d_model)
    return [
        Measurement(
            axis="context", eval_length=length, num_queries=num_queries, values=values[length],
            shared_prefix=shared, kept_tokens=kept, scan_backend=backend, wall_s=wall_s, tokens=tokens,
            peak_bytes=peak,
        )
        for length in grid
    ]  # fmt: skip


def _measure_whole(
    model: Model,
    task: Task,
    method: Method,
    recipe: Recipe,
    items: EvalSet,
    grid: list[int],
    num_queries: int,
) -> list[Measurement]:
    """Context and queries in one piece, at one length."""
    (length,) = grid
    clock = _Clock(task.device)
    scores = list(_whole_scores(model, task, method, recipe, items, length, num_queries))
    values = torch.cat([s.mean(dim=1) for s in scores]).float().cpu().numpy()
    wall_s, peak = clock.stop()
    return [
        Measurement(
            axis="context", eval_length=length, num_queries=num_queries, values=values, shared_prefix=False,
            kept_tokens=_kept(model), scan_backend=model.backend_name(task.device, recipe.d_model),
            wall_s=wall_s, tokens=items.num_items * (length + num_queries), peak_bytes=peak,
        )
    ]  # fmt: skip


def _query_axis(
    model: Model, task: Task, method: Method, recipe: Recipe, items: EvalSet, streamed: bool
) -> list[Measurement]:
    """Errors over the first k queries at a context of the training length.

    Where queries are causal one pass of the longest serves all k; otherwise each k needs its own.
    """
    grid, length = recipe.query_grid, recipe.train_length
    found: list[Measurement] = []
    first = method.first_token(length, recipe.train_length)
    clock, kept = _Clock(task.device), ()
    if streamed:
        parts = []
        for chosen in _batches(items.num_items, recipe.eval_batch):
            state = _read(model, items, chosen, None, first, length, length, first)
            queries, targets = items.queries(chosen, length, grid[-1])
            predictions = model.answer_from(state, queries, grid[-1], length - first)
            parts.append(task.score(predictions, targets))
        by_query = torch.cat(parts)
        wall_s, peak = clock.stop()
    for num_queries in grid:
        if streamed:
            values, tokens = by_query[:, :num_queries].mean(dim=1), items.num_items * (length + grid[-1])
        else:
            clock = _Clock(task.device)
            scores = list(_whole_scores(model, task, method, recipe, items, length, num_queries))
            values, kept = torch.cat([s.mean(dim=1) for s in scores]), _kept(model)
            tokens = items.num_items * (length + num_queries)
            wall_s, peak = clock.stop()
        found.append(
            Measurement(
                axis="queries", eval_length=length, num_queries=num_queries,
                values=values.float().cpu().numpy(), shared_prefix=streamed, kept_tokens=kept,
                scan_backend=model.backend_name(task.device, recipe.d_model),
                wall_s=wall_s, tokens=tokens, peak_bytes=peak,
            )
        )  # fmt: skip
    return found


def _whole_scores(
    model: Model,
    task: Task,
    method: Method,
    recipe: Recipe,
    items: EvalSet,
    length: int,
    num_queries: int,
) -> Iterator[Tensor]:
    """Scores `(batch, num_queries)`; longer sequences go in smaller batches."""
    first = method.first_token(length, recipe.train_length)
    size = max(1, min(recipe.eval_batch, recipe.eval_batch * PIECE // (length + num_queries)))
    for chosen in _batches(items.num_items, size):
        queries, targets = items.queries(chosen, length, num_queries)
        batch = Batch(items.context(chosen, first, length, length), queries, targets)
        yield task.score(model.answer(batch, mode="score", length=length - first), targets)


def _read(
    model: Model,
    items: EvalSet,
    chosen: slice,
    state: list | None,
    start: int,
    stop: int,
    length: int,
    first: int = 0,
) -> list:
    """Stream context tokens `start` to `stop` of `length`, of which those from `first` on are read."""
    while start < stop:
        end = min(stop, start + PIECE)
        state = model.read_context(items.context(chosen, start, end, length), state, length - first)
        start = end
    return state


def _kept(model: Model) -> tuple[int, ...]:
    """Tokens that each layer processed, for methods that may drop some."""
    return model.backbone.processed if "keep" in overridden_hooks(model.intervention) else ()


def _batches(num_items: int, size: int) -> Iterator[slice]:
    return (slice(k, min(k + size, num_items)) for k in range(0, num_items, size))


class _Clock:
    """Seconds and peak memory since it was made, device work included."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            torch.cuda.reset_peak_memory_stats(device)
        self.began = time.monotonic()

    def stop(self) -> tuple[float, int]:
        """Seconds, and bytes: peak of the device, or of the process on a CPU."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            return time.monotonic() - self.began, torch.cuda.max_memory_allocated(self.device)
        unit = 1 if sys.platform == "darwin" else 1024
        return time.monotonic() - self.began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
