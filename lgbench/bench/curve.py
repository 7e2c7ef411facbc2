"""Time the evaluation of a grid of lengths: one pass with kept states against a pass a length, same code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from lgbench.bench.rows import Row, checked, failure, row, timed
from lgbench.bench.setting import Setting, own_why_not
from lgbench.bench.timing import interleave, wall_clock
from lgbench.method import Method
from lgbench.models.model import Model, build_model
from lgbench.plan.cells import load_task
from lgbench.plan.params import PluginRequest
from lgbench.plugins.registry import METHODS
from lgbench.run.evaluate import evaluate
from lgbench.run.measurement import Measurement
from lgbench.task import EvalSet, Recipe, Task

ABLE = ("block", "triton", "mamba_ssm", "torch")
LIMIT = 1e-3
"""Relative difference of the scores of the two ways."""


@dataclass(frozen=True, slots=True)
class Case:
    """A grid of lengths and what is asked at each."""

    preset: str
    lengths: tuple[int, ...]
    num_queries: int
    num_items: int
    batch: int


CASES = {
    "cuda": Case("paper", tuple(2**k for k in range(16)), num_queries=1024, num_items=512, batch=256),
    "cpu": Case("smoke", tuple(2**k for k in range(16)), num_queries=256, num_items=4, batch=4),
}


def measure(setting: Setting) -> list[Row]:
    """Two rows, on the first back end that can run here."""
    names, found = setting.split("curve", ABLE, own_why_not)
    if not names:
        return found
    ways = compare(CASES[setting.device.type], names[0], setting)
    return found + list(ways.values())


def compare(case: Case, backend: str, setting: Setting) -> dict[str, Row]:
    """The rows of "shared" and "separate".

    Raises:
        RuntimeError: the evaluation did not share, or shared what it should not.
    """
    task, model, recipe, items = _workload(case, backend, setting.device)
    plugins = {"shared": METHODS.load("vanilla")(), "separate": _separate()}
    setting.say(f"{len(case.lengths)} lengths to {case.lengths[-1]:,}, back end {backend}")
    first = {name: evaluate(model, task, plugin, recipe, items) for name, plugin in plugins.items()}
    for name, measured in first.items():
        if any(point.shared_prefix != (name == "shared") for point in measured):
            raise RuntimeError(f"the evaluation called {name} was not")
    error = checked(_difference(first["shared"], first["separate"]), LIMIT, case.lengths[-1], "each other")
    calls: dict[str, Callable[[], Any]] = {
        name: lambda plugin=plugin: evaluate(model, task, plugin, recipe, items)
        for name, plugin in plugins.items()
    }
    samples = interleave(calls, wall_clock(setting.device), setting.repeats, setting.budget_s)
    rows = {}
    for name, times in samples.items():
        about = row(
            measure="curve",
            case=f"{len(case.lengths)} lengths to {case.lengths[-1]:,}, {case.num_queries:,} queries, "
            f"{case.num_items:,} images",
            contender=name,
            batch=case.batch,
            length=case.lengths[-1],
            d_model=recipe.d_model,
            d_inner=2 * recipe.d_model,
            d_state=model.backbone.params.d_state,
            num_layers=recipe.num_layers,
            dtype="float32",
            note=f"back end {backend}; separate passes process {_work(case):.2f} times the tokens",
            **error,
        )
        rows[name] = about | (
            failure(times) if isinstance(times, Exception) else _numbers(times, first[name], case)
        )
    return rows


def _workload(case: Case, backend: str, device: torch.device) -> tuple[Task, Model, Recipe, EvalSet]:
    """Task, recipe and items, and an untrained model, shaken so that its answers depend on what it saw."""
    task = load_task(PluginRequest("omniglot", {"data": "procedural"}))
    task.prepare(device)
    recipe = replace(
        task.recipe(case.preset, "causal"),
        eval_lengths=case.lengths,
        eval_queries=case.num_queries,
        query_grid=(),
        eval_items=case.num_items,
        eval_batch=case.batch,
    )
    model = build_model(task, METHODS.load("vanilla")(), recipe, seed=0, scan_backend=backend)
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=rng).to(device))
    return task, model, recipe, task.eval_set(case.num_items, 0)


def _separate() -> Method:
    """Vanilla that does not promise that prefixes are exact, which is all that decides."""
    return type("Separate", (METHODS.load("vanilla"),), {"prefix_exact": False})()


def _difference(shared: list[Measurement], separate: list[Measurement]) -> float:
    one, other = (np.stack([point.values for point in way]).astype(float) for way in (shared, separate))
    return float(np.linalg.norm(one - other) / np.linalg.norm(other))


def _work(case: Case) -> float:
    """Tokens of separate passes over those of one shared pass."""
    answers = len(case.lengths) * (case.num_queries + 1)
    return (sum(case.lengths) + answers) / (case.lengths[-1] + answers)


def _numbers(times: list[float], measured: list[Measurement], case: Case) -> Row:
    numbers = timed(times)
    tokens = case.num_items * (sum(case.lengths) + len(case.lengths) * case.num_queries)
    peak = max(point.peak_bytes for point in measured)
    return numbers | {"tokens_per_s": tokens / numbers["median_ms"] * 1e3, "peak_bytes": peak}
