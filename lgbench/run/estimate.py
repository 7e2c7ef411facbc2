"""How long a plan takes, from a few timed steps and answers of each kind of training in it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from lgbench.plan.cells import Cell, Training, checkpoint_folder, load_method, task_key
from lgbench.run import checkpoint
from lgbench.run.branch import shared_steps, trunks
from lgbench.run.evaluate import evaluate
from lgbench.run.measure import Items
from lgbench.run.train import Trainer
from lgbench.task import Recipe, Task

TRIAL_STEPS = 40
"""Steps timed, at most: their lengths are drawn, and so differ."""

TRIAL_SECONDS = 3.0
"""After which no more of them is begun."""

TRIAL_TOKENS = 2048
"""Context tokens of a timed step on a CPU, where time grows with them and memory would not warn."""

TRIAL_ITEMS = 16
"""Evaluation items that are timed."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Time that is left, cells one after another."""

    training_s: float = 0.0
    evaluation_s: float = 0.0
    calibrates: bool = False
    """Whether some method is fitted first, which is not counted."""


@dataclass(frozen=True, slots=True)
class _Speed:
    step_s: float
    eval_tokens_per_s: float


def estimate(cells: Sequence[Cell], tasks: Mapping[str, Task], root: Path, device: torch.device) -> Estimate:
    """Return how long these cells take on this device.

    Args:
        cells: to be run.
        tasks: prepared, by `task_key`.
        root: the results folder; what is trained there already is not counted again.
        device: where they will run.
    """
    trainings = {cell.training.key: cell for cell in cells}
    branches = trunks(cell.training for cell in trainings.values())
    speeds: dict[Training, _Speed] = {}
    training_s = evaluation_s = 0.0
    calibrates = False
    for cell in cells:
        training, task = cell.training, tasks[task_key(cell)]
        kind = replace(training, seed=0, recipe=replace(training.recipe, train_steps=0, learning_rate=0.0))
        if kind not in speeds:
            speeds[kind] = _measure(cell, task, root, device)
        if trainings.pop(training.key, None) is not None and not _trained(cell, root):
            shared = shared_steps(training) if training in branches else 0
            training_s += speeds[kind].step_s * (training.recipe.train_steps - shared)
        method = load_method(cell.method, cell.method_params)
        longest = max(cell.recipe.eval_lengths)
        calibrates |= method.calibration_length(longest, cell.recipe.train_length) is not None
        evaluation_s += _eval_tokens(cell, task) / speeds[kind].eval_tokens_per_s
    return Estimate(training_s, evaluation_s, calibrates)


def _trained(cell: Cell, root: Path) -> bool:
    path = checkpoint.weights_path(checkpoint_folder(root, cell.training), cell.step)
    return checkpoint.load(path) is not None


def _eval_tokens(cell: Cell, task: Task) -> int:
    """Tokens that are read and answered, all lengths and items."""
    recipe, method = cell.recipe, load_method(cell.method, cell.method_params)
    limit = task.context_tokens(recipe.train_length)
    read = [n - method.first_token(n, limit) for n in map(task.context_tokens, recipe.eval_lengths)]
    at_once = task.nested and method.prefix_exact
    answered = len(read) * recipe.eval_queries + sum(recipe.query_grid)
    return recipe.eval_items * ((max(read) if at_once else sum(read)) + answered)


def _measure(cell: Cell, task: Task, root: Path, device: torch.device) -> _Speed:
    """Time steps of a training of this kind, and answers of its untrained model at the training length."""
    training, recipe, on_cpu = cell.training, cell.recipe, device.type == "cpu"
    batch = recipe.batch_size
    if on_cpu:
        batch = min(batch, max(1, TRIAL_TOKENS // task.context_tokens(training.high)))
    part = replace(training, recipe=replace(recipe, batch_size=batch))
    method = load_method(training.method, training.method_params)
    trainer = Trainer(part, task, method, checkpoint_folder(root, training))
    trainer.one_step()  # compiles, captures, allocates
    step_s, steps = 0.0, min(TRIAL_STEPS, recipe.train_steps)
    for _ in range(1 if on_cpu else 2):  # on a GPU each length is captured once
        trainer.step, began = 0, time.monotonic()
        while trainer.step < steps and time.monotonic() - began < TRIAL_SECONDS:
            trainer.one_step()
        _wait(device)
        step_s = (time.monotonic() - began) / trainer.step * recipe.batch_size / batch
    return _Speed(step_s, _eval_rate(trainer, cell, task, recipe, device))


def _eval_rate(trainer: Trainer, cell: Cell, task: Task, recipe: Recipe, device: torch.device) -> float:
    """Tokens a second, read and answered, of a pass over a few items."""
    few = min(TRIAL_ITEMS, recipe.eval_items)
    if device.type == "cpu":
        few = min(few, max(1, 4 * TRIAL_TOKENS // task.context_tokens(recipe.train_length)))
    trial = replace(recipe, eval_items=few, eval_lengths=(recipe.train_length,), query_grid=())
    method = load_method(trainer.training.method, trainer.training.method_params)
    items = Items(task, recipe.eval_items, recipe.train_length).items  # the first few are read
    rate = 0.0
    for _ in range(1 if device.type == "cpu" else 2):
        began = time.monotonic()
        evaluate(trainer.model, task, method, trial, items)
        _wait(device)
        tokens = few * (task.context_tokens(recipe.train_length) + recipe.eval_queries)
        rate = tokens / (time.monotonic() - began)
    return rate


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
