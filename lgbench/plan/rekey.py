"""Find the keys that an old row has today, by resolving what it says of itself once more."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from lgbench.errors import UserError
from lgbench.plan.backbones import choose
from lgbench.plan.cells import Cell, Pair, cell_of
from lgbench.plan.keys import cell_key, training_key
from lgbench.plan.params import resolve
from lgbench.plugins.registry import METHODS, TASKS
from lgbench.recipe import Recipe
from lgbench.store import from_texts

REQUIRED = ("task", "task_params", "method", "method_params", "recipe", "seed", "step")

IN_OLD_RECIPES = ("d_state", "conv_width", "init_std")
"""Sizes of backbones that were fields of every recipe, whether the backbone had them or not."""


def new_keys(row: Mapping[str, Any]) -> tuple[str, str]:
    """Cell key and training key of a row as they are made today; see `cell_of_row`."""
    cell = cell_of_row(row)
    return cell_key(cell), training_key(cell.training)


def cell_of_row(row: Mapping[str, Any]) -> Cell:
    """Return the cell that a row is of, under the versions of the plugins that measured it.

    The data are not loaded: their fingerprint is the row's.

    Args:
        row: with the columns task, task_params, data_fingerprint, method, method_params, recipe, seed, step
            and preset.

    Raises:
        UserError: a plugin or a parameter of the row does not exist any more, or the row started from a
            published checkpoint, whose sizes it does not hold.
    """
    if missing := [name for name in REQUIRED if row.get(name) is None]:
        raise UserError(f"the row has no {', '.join(missing)}")
    numbers = _read(row["recipe"])
    if numbers.get("pretrained") and not row.get("backbone_params") and "backbone_params" not in numbers:
        raise UserError(f"row of {row['task']}: it started from a checkpoint that has to be read again")
    kind = TASKS.load(row["task"])
    task = kind(resolve(kind, _read(row["task_params"]), "task", row["task"]))
    task.identity = TASKS.identity_of(row["task"], task)
    task.data_fingerprint = row["data_fingerprint"]
    method_kind = METHODS.load(row["method"])
    method = method_kind(resolve(method_kind, _read(row["method_params"]), "method", row["method"]))
    method.identity = METHODS.identity_of(row["method"], method)
    recipe = _recipe(numbers, row)
    name = numbers.get("backbone") or str(row.get("backbone") or "").partition("[")[0] or method.backbone
    choice = choose(name, {}, recipe, method)
    pair = Pair(choice, recipe.without_sizes(), row["seed"], "")
    cell = cell_of(row["task"], task, row["method"], method, pair, row["preset"], row["step"])
    return _as_measured(cell, row)


def _as_measured(cell: Cell, row: Mapping[str, Any]) -> Cell:
    """The cell under the code that measured it: what stood for its plugins and the format of its fits then.

    Rows of the first schemas say neither; they are of the first versions. A task may learn its shortest
    context from its data, which are not loaded here; the row has it too.
    """
    first = "+".join(["v1"] * len(row["method"].split("+")))
    own = row.get("method_identity") or first
    training = replace(
        cell.training,
        low=max(cell.training.low, row.get("train_low") or 0),
        task_identity=row.get("task_identity") or "v1",
        method_identity=own if cell.training.method == row["method"] else "v1",
        backbone_identity=row.get("backbone_identity") or "v1",
    )
    fits = row.get("calibration_format")
    if fits is None:
        fits = 1 if cell.calibration_format else 0
    return replace(cell, training=training, method_identity=own, calibration_format=fits)


def _read(params: str | Mapping[str, str]) -> dict[str, Any]:
    """Parameters of a row, one JSON text in the first schemas, a text for each since."""
    return json.loads(params) if isinstance(params, str) else from_texts(params)


def _recipe(numbers: Mapping[str, Any], row: Mapping[str, Any]) -> Recipe:
    """The recipe of a row, with the sizes of its backbone as suggestions."""
    sizes = from_texts(row["backbone_params"]) if row.get("backbone_params") else None
    if sizes is None:
        sizes = numbers.get("backbone_params")
    if sizes is None:
        sizes = {name: numbers[name] for name in IN_OLD_RECIPES if name in numbers}
    known = {field.name for field in fields(Recipe)} - {"sizes"}
    values = {name: _frozen(value) for name, value in numbers.items() if name in known}
    return Recipe(**values, sizes=tuple(sorted(sizes.items())))


def _frozen(value: Any) -> Any:
    """JSON lists as the tuples that they were."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
