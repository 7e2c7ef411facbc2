"""Resolve what was asked for into cells: pure data whose hashes name checkpoints and result files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from lgbench.errors import UserError
from lgbench.method import Method
from lgbench.plan.applicability import no_task_for, refusal
from lgbench.plan.axes import Axes
from lgbench.plan.backbones import BackboneChoice, choose
from lgbench.plan.checks import check_calibration, check_fits, check_numbers, check_range
from lgbench.plan.keys import cell_key, changed_params, training_key
from lgbench.plan.params import PluginRequest, label, resolve
from lgbench.plugins.compose import combine
from lgbench.plugins.registry import BACKBONES, METHODS, TASKS
from lgbench.run.calibrate import CALIBRATION_FORMAT, fitted_lengths
from lgbench.run.failures import ANY, describe
from lgbench.task import Recipe, Task


@dataclass(frozen=True, kw_only=True)
class Training:
    """Everything that decides trained weights. Methods that train alike have equal ones.

    `task_params`, `method_params` and `backbone_params` are canonical JSON of what differs from its default;
    identities stand for the code of the plugins, see `Registry.identity`.
    """

    task: str
    task_params: str
    data_fingerprint: str
    task_identity: str
    method: str
    method_params: str
    method_identity: str
    backbone: str
    backbone_params: str
    backbone_identity: str
    low: int
    """Smallest and largest context in training, tokens, inclusive."""
    high: int
    recipe: Recipe
    seed: int

    @cached_property
    def key(self) -> str:
        """Hash that names the checkpoint folder; see `lgbench.plan.keys`."""
        return training_key(self)


@dataclass(frozen=True, kw_only=True)
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
    backbone_label: str = ""
    """The backbone, with what was asked of it and has no column of its own; in no key."""
    left_out: str = ""
    """Why this combination cannot be run, which makes a `skipped` row; in no key."""
    fault: str = ""
    """Traceback of a plugin that fails when it is asked about this, which makes a `failed` row; in no key."""

    @cached_property
    def key(self) -> str:
        """Hash that names the result file; see `lgbench.plan.keys`."""
        return cell_key(self)

    @property
    def seed(self) -> int:
        """Seed of initialisation and training."""
        return self.training.seed


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
    cells: list[Cell] = []
    for (task_name, task), request in product(tasks, methods):
        method_class = METHODS.load(request.name)
        method = method_class(resolve(method_class, request.params, "method", request.name))
        method.identity = METHODS.identity_of(request.name, method)
        made: dict[Pair, list[Cell]] = {}  # of all seeds, which differ in nothing else
        for pair in _pairs(task, method, request.name, seeds, preset, axes, overrides):
            alike = pair._replace(seed=0)
            if alike not in made:
                made[alike] = _cells_of(task_name, task, request.name, method, pair, preset)
            training = replace(made[alike][0].training, seed=pair.seed)
            cells += [replace(cell, training=training) for cell in made[alike]]
    cells = list({cell.key: cell for cell in cells}.values())
    if cells and all(cell.left_out for cell in cells):
        raise UserError(cells[0].left_out)
    return cells


class Pair(NamedTuple):
    """A method on a backbone with one recipe and one seed."""

    backbone: BackboneChoice
    recipe: Recipe
    seed: int
    left_out: str
    fault: str = ""
    """What the code of a plugin failed with, when it was asked."""
    steps: Sequence[int] = ()
    """After which it is evaluated, besides the last."""


def _cells_of(task_name: str, task: Task, name: str, method: Method, pair: Pair, preset: str) -> list[Cell]:
    """One cell for each step after which a training is evaluated."""
    last = pair.recipe.train_steps
    for step in pair.steps:
        if step != last and not 0 < step < last:
            raise UserError(f"--eval-at-steps {step} is outside the training of {last} steps")
    steps = sorted({*pair.steps, last})
    cells = [cell_of(task_name, task, name, method, pair, preset, step) for step in steps]
    if pair.fault:
        return [replace(cell, fault=pair.fault) for cell in cells]
    try:
        if pair.left_out or no_task_for(method, pair.backbone.name, task) is not None:
            return cells
        why = _misfit(cells[0].training, task, method, name, pair.recipe)
    except ANY as error:  # the code of a plugin may fail in any way
        return [replace(cell, fault=describe(error)[1]) for cell in cells]
    return [replace(cell, left_out=why) for cell in cells]


def cell_of(
    task_name: str, task: Task, name: str, method: Method, pair: Pair, preset: str, step: int
) -> Cell:
    """The cell of a method with its parameters on a task whose data are known."""
    recipe = pair.recipe
    training = _training(task_name, task, name, method, recipe, pair.seed, pair.backbone)
    return Cell(
        task=task_name,
        task_params=changed_params(task.params, task.data_params),
        method=name,
        method_params=changed_params(method.params),
        method_identity=method.identity,
        label=label(name, method.params),
        training=training,
        recipe=recipe,
        preset=preset,
        step=step,
        calibration_format=CALIBRATION_FORMAT if not pair.fault and _fits(method, recipe) else 0,
        backbone_label=pair.backbone.label,
        left_out=pair.left_out,
    )


def _misfit(training: Training, task: Task, method: Method, name: str, recipe: Recipe) -> str:
    """Why parameters do not fit the lengths of this recipe; empty if they do."""
    try:
        method.check(recipe, training.backbone)
        check_calibration(method, name, recipe, task)
        check_range(training.method, training.high, training.recipe, task)
    except UserError as error:
        return str(error)
    return ""


def _fits(method: Method, recipe: Recipe) -> bool:
    """Whether a method fits anything for these lengths."""
    return any(at is not None for plan in fitted_lengths(method, recipe).values() for at in plan)


def _pairs(
    task: Task,
    method: Method,
    name: str,
    seeds: Sequence[int],
    preset: str,
    axes: Axes,
    overrides: Mapping[str, Any],
) -> Iterator[Pair]:
    """A method on all backbones that are asked for, with its recipes and seeds over all axes."""
    for request in axes.backbone or [PluginRequest(method.backbone, {})]:
        kind = BACKBONES.load(request.name)
        try:
            base = replace(task.recipe(preset, kind.layout), **overrides)
        except LookupError as error:
            raise UserError(str(error)) from None
        made: dict[tuple[Recipe, Any], Pair] = {}  # of all seeds
        for (recipe, steps), seed, d_state in product(
            axes.recipes(base, task.at_train_length), seeds, axes.d_state or [None]
        ):
            at = (recipe, d_state)
            if at not in made:
                asked = dict(request.params) if d_state is None else {**request.params, "d_state": d_state}
                made[at] = _pair(task, method, name, PluginRequest(request.name, asked), recipe)
            yield made[at]._replace(seed=seed, steps=tuple(steps))


def _pair(task: Task, method: Method, name: str, backbone: PluginRequest, recipe: Recipe) -> Pair:
    """A method on a backbone with the sizes that were asked for, checked; of seed 0."""
    check_numbers(recipe)
    check_fits(recipe, task)
    kind = BACKBONES.load(backbone.name)
    if recipe.num_layers % kind.layers_multiple_of:
        raise UserError(
            f"method '{name}': --num-layers must be a multiple of {kind.layers_multiple_of} for its "
            f"backbone {backbone.name}, got {recipe.num_layers}"
        )
    task.check(recipe)
    choice = choose(backbone.name, backbone.params, recipe, method)
    why, fault = "", ""
    try:
        why = refusal(method, name, choice.name, recipe) or ""
        _fits(method, recipe)
    except ANY as error:  # the code of a plugin may fail in any way
        if isinstance(error, UserError) and str(error):  # what was asked for cannot be, and it says why
            raise
        fault = describe(error)[1]
    return Pair(choice, recipe.without_sizes(), 0, why, fault)


def load_task(request: PluginRequest) -> Task:
    """An unprepared task with validated parameters.

    Raises:
        UserError: unknown task or parameter.
    """
    task_class = TASKS.load(request.name)
    task: Task = task_class(resolve(task_class, request.params, "task", request.name))
    task.identity = TASKS.identity_of(request.name, task)
    return task


def why_left_out(cell: Cell, task: Task) -> str:
    """Why a cell cannot be run on its prepared task; empty if it can."""
    method = load_method(cell.method, cell.method_params)
    return cell.left_out or no_task_for(method, cell.training.backbone, task) or ""


def task_key(cell: Cell) -> str:
    """Identity of the prepared task that a cell runs on."""
    return f"{cell.task} {cell.task_params} {cell.training.data_fingerprint}"


def identify(name: str, task: Task) -> str:
    """Identity of a prepared task, equal to `task_key` of its cells."""
    return f"{name} {changed_params(task.params, task.data_params)} {task.data_fingerprint}"


def load_method(name: str, params: str) -> Method:
    """The method of a cell or training, from the JSON of its parameters."""
    method_class = METHODS.load(name)
    method: Method = method_class(method_class.Params.model_validate_json(params))
    method.identity = METHODS.identity_of(name, method)
    return method


def checkpoint_folder(root: Path, training: Training) -> Path:
    """Where a training keeps its weights under a results folder."""
    return Path(root) / "checkpoints" / training.key


def _training(
    task_name: str,
    task: Task,
    name: str,
    method: Method,
    recipe: Recipe,
    seed: int,
    backbone: BackboneChoice,
) -> Training:
    parts = method.parts(name)
    own = [(n, part) for n, part in parts if part.trains_like is None]
    if own:
        name, method = own[0] if len(own) == 1 else combine(own)
    else:
        name = parts[0][1].trains_like or ""
        method = METHODS.load(name)()
    params = method.params
    low, high = method.train_lengths(recipe.train_length)
    if recipe.fixed_length and low == 1:
        low = high
    return Training(
        task=task_name,
        task_params=changed_params(task.params, task.eval_only | task.data_params),
        data_fingerprint=task.data_fingerprint,
        task_identity=task.identity or TASKS.identity_of(task_name, task),
        method=name,
        method_params=changed_params(params, method.eval_only),
        method_identity=METHODS.identity_of(name, method),
        backbone=backbone.name,
        backbone_params=backbone.params,
        backbone_identity=BACKBONES.identity(backbone.name),
        low=max(low, task.min_length),
        high=high,
        recipe=recipe.training_part(),
        seed=seed,
    )
