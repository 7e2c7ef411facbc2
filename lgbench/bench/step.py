"""Time whole Omniglot training steps through the real trainer: data, forward, backward, clip and update.

Procedural glyphs stand in for the images, which cost the same and need no download. Several seeds train
side by side as in `lgbench run --side-by-side`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from lgbench.backbones.mamba import Mamba
from lgbench.bench.rows import Row, failure, row, timed, traffic
from lgbench.bench.setting import Setting, own_why_not
from lgbench.bench.timing import Call, interleave, synchronise, wall_clock
from lgbench.method import Method
from lgbench.plan.cells import Training, load_method, load_task
from lgbench.plan.keys import changed_params
from lgbench.plan.params import PluginRequest
from lgbench.run.stack import in_stacks, teams
from lgbench.run.train import Trainer
from lgbench.task import Recipe, Task

ABLE = ("block", "triton", "mamba_ssm", "torch")
PRESET = {"cuda": "paper", "cpu": "smoke"}
CONTEXT = {"cuda": 512, "cpu": 64}
SEEDS = {"cuda": (1, 4, 8), "cpu": (1, 2)}
"""Trainings side by side; more than one only for the first contender."""
STEPS = {"cuda": 20, "cpu": 3}
"""Steps in one sample."""
WARM_STEPS = 3
"""The first captures the graph."""
FUSED_TRAFFIC = 5 * 4
"""Bytes per token, block and unit of d_model that a fused block moves, forward and backward, in float32."""


def measure(setting: Setting) -> list[Row]:
    """Rows of every back end with one seed, and of the first with several."""
    names, found = setting.split("step", ABLE, own_why_not)
    if not names:
        return found
    task, method, recipe = _workload(setting.device)
    rows: dict[tuple[str, int], Row] = {}
    calls: dict[tuple[str, int], Call] = {}
    for name, seeds in _entries(names, setting.device.type):
        rows[name, seeds] = row(**_about(name, seeds, recipe, setting.device))
        setting.say(f"{rows[name, seeds]['case']}, {name}, {seeds} seeds side by side")
        try:
            calls[name, seeds] = _stepper(task, method, recipe, name, seeds)
        except Exception as error:  # of this contender
            rows[name, seeds] |= failure(error)
    samples = interleave(calls, wall_clock(setting.device), setting.repeats, setting.budget_s)
    for (name, seeds), times in samples.items():
        rows[name, seeds] |= _numbers(times, seeds, rows[name, seeds], recipe, setting)
    return found + list(rows.values())


def make_trainer(
    task: Task, method: Method, recipe: Recipe, context: int, seed: int, backend: str
) -> Trainer:
    """A trainer at one context length outside of any plan. It saves nothing: its last step never comes."""
    training = Training(
        task="omniglot", task_params=changed_params(task.params), task_identity=task.identity,
        data_fingerprint=task.data_fingerprint,
        method="vanilla", method_params=changed_params(method.params), method_identity=method.identity,
        backbone="mamba", backbone_params="{}", backbone_identity="",
        low=context, high=context, recipe=replace(recipe, train_steps=10**9), seed=seed,
    )  # fmt: skip
    return Trainer(training, task, method, Path(os.devnull), (), backend)


def _workload(device: torch.device) -> tuple[Task, Method, Recipe]:
    task = load_task(PluginRequest("omniglot", {"data": "procedural"}))
    task.prepare(device)
    return task, load_method("vanilla", "{}"), task.recipe(PRESET[device.type], "causal")


def _entries(names: list[str], kind: str) -> list[tuple[str, int]]:
    first, *others = names
    return [(first, seeds) for seeds in SEEDS[kind]] + [(name, 1) for name in others]


def _stepper(task: Task, method: Method, recipe: Recipe, name: str, seeds: int) -> Callable[[], None]:
    """Warmed-up trainings, one step each in turn."""
    kind = task.device.type
    trainers = [make_trainer(task, method, recipe, CONTEXT[kind], seed, name) for seed in range(seeds)]
    in_stacks(trainers)
    used = trainers[0].model.backend_name(task.device, recipe.d_model)
    if used != name:
        raise RuntimeError(f"back end '{name}' does not serve this model, '{used}' would")

    def run(steps: int = STEPS[kind]) -> None:
        for _ in range(steps):
            for trainer in teams(trainers):
                trainer.one_step()

    run(WARM_STEPS)
    synchronise(task.device)
    if not trainers[0].log[:WARM_STEPS].isfinite().all():
        raise RuntimeError("the training loss is not finite")
    return run


def _about(name: str, seeds: int, recipe: Recipe, device: torch.device) -> Row:
    context, queries = CONTEXT[device.type], recipe.train_queries[1]
    return {
        "measure": "step",
        "case": f"batch {recipe.batch_size}, {context:,} + {queries:,} tokens, {recipe.num_layers} layers",
        "contender": name,
        "mode": "graph" if device.type == "cuda" else "eager",
        "batch": recipe.batch_size,
        "length": context + queries,
        "d_model": recipe.d_model,
        "d_inner": 2 * recipe.d_model,
        "d_state": Mamba.Params().d_state,
        "num_layers": recipe.num_layers,
        "dtype": "float32",
        "num_seeds": seeds,
    }


def _numbers(times: list[float] | Exception, seeds: int, about: Row, recipe: Recipe, setting: Setting) -> Row:
    if isinstance(times, Exception):
        return failure(times)
    numbers = timed(times, share=1 / (STEPS[setting.device.type] * seeds))
    tokens = about["batch"] * about["length"]
    bytes_moved = (
        FUSED_TRAFFIC * recipe.d_model * recipe.num_layers * (tokens + about["batch"])
    )  # and separators
    moved = traffic(bytes_moved, setting.copy_rate, numbers["median_ms"])
    return numbers | moved | {"tokens_per_s": tokens / numbers["median_ms"] * 1e3}
