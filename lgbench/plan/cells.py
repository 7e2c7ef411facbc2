"""Resolve what was asked for into cells: pure data whose hashes name checkpoints and result files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product
from pathlib import Path
from typing import Any

from lgbench.errors import UserError
from lgbench.method import Method
from lgbench.plan.keys import cell_key, changed_params, training_key
from lgbench.plan.params import PluginRequest, label, resolve
from lgbench.plugins.registry import BACKBONES, METHODS, TASKS
from lgbench.run.calibrate import CALIBRATION_FORMAT, fitted_lengths
from lgbench.task import Recipe, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """Everything that decides trained weights. Methods that train alike have equal ones.

    `task_params` and `method_params` are canonical JSON of the parameters that differ from their defaults;
    identities stand for the code of the plugins, see `Registry.identity`.
    """

    task: str
    task_params: str
    data_fingerprint: str
    task_identity: str
    method: str
    method_params: str
    method_identity: str
    low: int
    """Smallest and largest context in training, tokens, inclusive."""
    high: int
    recipe: Recipe
    seed: int

    @property
    def key(self) -> str:
        """Hash that names the checkpoint folder; see `lgbench.plan.keys`."""
        return training_key(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One point of the cross product, fully resolved."""

    task: str
    task_params: str
    method: str
    method_params: str
    method_identity: str
    label: str
    training: Training
    recipe: Recipe
    preset: str
    step: int
    """Optimiser steps after which it is evaluated; at most the training's."""
    calibration_format: int = 0
    """How calibration items are drawn; 0 where nothing is fitted."""

    @property
    def key(self) -> str:
        """Hash that names the result file; see `lgbench.plan.keys`."""
        return cell_key(self)

    @property
    def seed(self) -> int:
        """Seed of initialisation and training."""
        return self.training.seed


@dataclass(frozen=True, slots=True, kw_only=True)
class Axes:
    """Grid axes besides task, method and seed; None keeps the preset's number."""

    train_length: Sequence[int] | None = None
    train_steps: Sequence[int] | None = None
    num_layers: Sequence[int] | None = None
    d_state: Sequence[int] | None = None
    backbone: Sequence[str] | None = None
    """Where a method runs on several; each method must run on all that are named."""
    lm_weight: Sequence[float] | None = None
    eval_at_steps: Sequence[int] | None = None
    """Evaluate these checkpoints along each training, and its end."""


def resolve_cells(
    tasks: Sequence[tuple[str, Task]],
    methods: Sequence[PluginRequest],
    *,
    seeds: Sequence[int],
    preset: str,
    axes: Axes,
    overrides: Mapping[str, Any],
) -> list[Cell]:
    """The cross product, in the order tasks, methods, axes, seeds, steps.

    Args:
        tasks: names and prepared tasks (their data decide the fingerprint).
        methods: requested methods.
        seeds: of initialisation and training.
        preset: name of the preset.
        axes: grid axes.
        overrides: fields of `Recipe` that replace the preset's numbers.

    Raises:
        UserError: an unknown preset, parameter or plugin; lengths that are not positive and increasing.
    """
    if axes.train_length is not None and any(a >= b for a, b in pairwise(axes.train_length)):
        raise UserError(f"--train-length must be increasing, got {','.join(map(str, axes.train_length))}")
    cells = []
    for (task_name, task), method_request in product(tasks, methods):
        method_class = METHODS.load(method_request.name)
        method = method_class(resolve(method_class, method_request.params, "method", method_request.name))
        method.identity = METHODS.identity(method_request.name)
        for recipe, seed in _recipes(task, method, method_request.name, seeds, preset, axes, overrides):
            _check(recipe)
            _check_fits(recipe, task, method_request.name)
            task.check(recipe)
            method.check(recipe)
            training = _training(task_name, task, method_request.name, method, recipe, seed)
            if method.unsupported(task) is None:
                _check_calibration(method, method_request.name, recipe, task)
                _check_range(training, task)
            for step in sorted({*(axes.eval_at_steps or ()), recipe.train_steps}):
                if step != recipe.train_steps and not 0 < step < recipe.train_steps:
                    raise UserError(
                        f"--eval-at-steps {step} is outside the training of {recipe.train_steps} steps"
                    )
                cells.append(
                    Cell(
                        task=task_name,
                        task_params=changed_params(task.params, task.data_params),
                        method=method_request.name,
                        method_params=changed_params(method.params),
                        method_identity=method.identity,
                        label=label(method_request.name, method.params),
                        training=training,
                        recipe=recipe,
                        preset=preset,
                        step=step,
                        calibration_format=CALIBRATION_FORMAT if _fits(method, recipe) else 0,
                    )
                )
    return list({cell.key: cell for cell in cells}.values())


def _fits(method: Method, recipe: Recipe) -> bool:
    """Whether a method fits anything for these lengths."""
    return any(at is not None for plan in fitted_lengths(method, recipe).values() for at in plan)


def _recipes(
    task: Task,
    method: Method,
    name: str,
    seeds: Sequence[int],
    preset: str,
    axes: Axes,
    overrides: Mapping[str, Any],
) -> Iterator[tuple[Recipe, int]]:
    """Recipes and seeds of a method on a task, over all axes."""
    for backbone in axes.backbone or [method.backbone]:
        if backbone not in method.backbones:
            raise UserError(
                f"method '{name}' does not run on the backbone '{backbone}'. "
                f"It runs on: {', '.join(method.backbones)}"
            )
        kind = BACKBONES.load(backbone)
        try:
            base = replace(task.recipe(preset, kind.layout), backbone=backbone, **overrides)
        except LookupError as error:
            raise UserError(str(error)) from None
        numbers = ("train_length", "train_steps", "num_layers", "d_state", "lm_weight")
        grid = product(*(getattr(axes, number) or [getattr(base, number)] for number in numbers), seeds)
        for *values, seed in grid:
            recipe = replace(base, **dict(zip(numbers, values, strict=True)))
            if recipe.num_layers % kind.layers_multiple_of:
                raise UserError(
                    f"method '{name}': --num-layers must be a multiple of {kind.layers_multiple_of} for its "
                    f"backbone {backbone}, got {recipe.num_layers}"
                )
            yield recipe, seed


def load_task(request: PluginRequest) -> Task:
    """An unprepared task with validated parameters.

    Raises:
        UserError: unknown task or parameter.
    """
    task_class = TASKS.load(request.name)
    task = task_class(resolve(task_class, request.params, "task", request.name))
    task.identity = TASKS.identity(request.name)
    return task


def task_key(cell: Cell) -> str:
    """Identity of the prepared task that a cell runs on."""
    return f"{cell.task} {cell.task_params} {cell.training.data_fingerprint}"


def identify(name: str, task: Task) -> str:
    """Identity of a prepared task, equal to `task_key` of its cells."""
    return f"{name} {changed_params(task.params, task.data_params)} {task.data_fingerprint}"


def load_method(name: str, params: str) -> Method:
    """The method of a cell or training, from the JSON of its parameters."""
    method_class = METHODS.load(name)
    method = method_class(method_class.Params.model_validate_json(params))
    method.identity = METHODS.identity(name)
    return method


def checkpoint_folder(root: Path, training: Training) -> Path:
    """Where a training keeps its weights under a results folder."""
    return Path(root) / "checkpoints" / training.key


def _training(task_name: str, task: Task, name: str, method: Method, recipe: Recipe, seed: int) -> Training:
    parts = method.parts(name)
    own = [(n, part) for n, part in parts if part.trains_like is None]
    if own:
        ((name, method),) = own
    else:
        name = parts[0][1].trains_like
        method = METHODS.load(name)()
    params = method.params
    low, high = method.train_lengths(recipe.train_length)
    return Training(
        task=task_name,
        task_params=changed_params(task.params, task.eval_only | task.data_params),
        data_fingerprint=task.data_fingerprint,
        task_identity=task.identity or TASKS.identity(task_name),
        method=name,
        method_params=changed_params(params, method.eval_only),
        method_identity=METHODS.identity(name),
        low=max(low, task.min_length),
        high=high,
        recipe=recipe.training_part(),
        seed=seed,
    )


def _check(recipe: Recipe) -> None:
    for name in ("eval_lengths", "query_grid"):
        grid = getattr(recipe, name)
        if any(n < 1 for n in grid) or any(a >= b for a, b in pairwise(grid)):
            option = "--" + name.replace("_", "-")
            raise UserError(f"{option} must be positive and increasing, got {','.join(map(str, grid))}")
    if not recipe.eval_lengths:
        raise UserError("--eval-lengths is empty; give at least one length, e.g. --eval-lengths 64,256,1024")
    if recipe.train_steps < (0 if recipe.pretrained else 1):
        raise UserError(f"--train-steps must be at least 1, got {recipe.train_steps}")
    if recipe.lm_weight < 0:
        raise UserError(f"--lm-weight must not be negative, got {recipe.lm_weight:g}")
    for name in (
        "train_length",
        "num_layers",
        "d_state",
        "batch_size",
        "eval_items",
        "eval_queries",
        "eval_batch",
    ):
        if getattr(recipe, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(recipe, name)}")
    if recipe.stage_batches and len(recipe.stage_batches) != len(recipe.stages):
        raise UserError(
            f"stage_batches has {len(recipe.stage_batches)} numbers for {len(recipe.stages)} stages"
        )
    low, high = recipe.train_queries
    if not 1 <= low <= high:
        raise UserError(f"--train-queries must be at least 1 and increasing, got {low},{high}")
    if not recipe.learning_rate > 0:
        raise UserError(f"--learning-rate must be above 0, got {recipe.learning_rate}")


def _check_fits(recipe: Recipe, task: Task, method: str) -> None:
    """Refuse what only some tasks and backbones have."""
    has_tokens = task.generates or task.lm_metric is not None
    if recipe.lm_weight and not has_tokens:
        raise UserError(f"--lm-weight {recipe.lm_weight:g}: this task has no tokens to foretell")
    if recipe.pretrained and not has_tokens:
        raise UserError("--pretrained: is a language model, and one of the tasks has no tokens")
    if recipe.pretrained and recipe.backbone != "mamba":
        raise UserError(
            f"--pretrained: holds a Mamba, and method '{method}' would run on the backbone {recipe.backbone}"
        )


def _check_calibration(method: Method, name: str, recipe: Recipe, task: Task) -> None:
    """Refuse lengths at which a method cannot be fitted, since that would show after the training only."""
    longest = task.longest_training(recipe.train_queries[1])
    for length, fitted_at in fitted_lengths(method, recipe).items():
        for (part_name, part), at in zip(method.parts(name), fitted_at, strict=True):
            for drawn in () if at is None else part.drawn_lengths(at, recipe.train_length):
                if drawn < task.min_length:
                    raise UserError(
                        f"method '{part_name}' would be fitted at {drawn} {task.length_unit}; the shortest "
                        f"context of this task has {task.min_length}"
                    )
                if longest is not None and drawn > longest:
                    raise UserError(
                        f"method '{part_name}' would be fitted on training contexts of {drawn:,} "
                        f"{task.length_unit} for its evaluation at {length:,}; the longest that can be drawn "
                        f"has {max(0, longest):,} ({task.data_source})"
                    )


def _check_range(training: Training, task: Task) -> None:
    """Refuse training contexts that a method makes longer than those that there are."""
    longest = task.longest_training(training.recipe.train_queries[1])
    if longest is not None and training.high > longest:
        raise UserError(
            f"method '{training.method}' would be trained on contexts of up to {training.high:,} "
            f"{task.length_unit}; the longest that can be drawn has {max(0, longest):,} ({task.data_source})"
        )
