"""Find the keys that an old row has today, by resolving what it says of itself once more."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from lgbench.errors import UserError
from lgbench.plan.backbones import choose
from lgbench.plan.cells import Pair, cell_of
from lgbench.plan.keys import cell_key, training_key
from lgbench.plan.params import resolve
from lgbench.plugins.registry import METHODS, TASKS
from lgbench.recipe import Recipe

IN_OLD_RECIPES = ("d_state", "conv_width", "init_std")
"""Sizes of backbones that were fields of every recipe, whether the backbone had them or not."""


def new_keys(row: Mapping[str, Any]) -> tuple[str, str]:
    """Cell key and training key of a row as they are made today.

    The data are not loaded: their fingerprint is the row's.

    Args:
        row: with the columns task, task_params, data_fingerprint, method, method_params, recipe, seed, step
            and preset.

    Raises:
        UserError: a plugin or a parameter of the row does not exist any more, or the row started from a
            published checkpoint, whose sizes it does not hold.
    """
    numbers = json.loads(row["recipe"])
    if numbers.get("pretrained") and "backbone_params" not in numbers:
        raise UserError(f"row of {row['task']}: it started from a checkpoint that has to be read again")
    kind = TASKS.load(row["task"])
    task = kind(resolve(kind, json.loads(row["task_params"]), "task", row["task"]))
    task.identity = TASKS.identity(row["task"])
    task.data_fingerprint = row["data_fingerprint"]
    method_kind = METHODS.load(row["method"])
    method = method_kind(resolve(method_kind, json.loads(row["method_params"]), "method", row["method"]))
    method.identity = METHODS.identity(row["method"])
    recipe = _recipe(numbers)
    choice = choose(numbers.get("backbone") or method.backbone, {}, recipe, method)
    pair = Pair(choice, recipe.without_sizes(), row["seed"], "")
    cell = cell_of(row["task"], task, row["method"], method, pair, row["preset"], row["step"])
    return cell_key(cell), training_key(cell.training)


def _recipe(numbers: Mapping[str, Any]) -> Recipe:
    """The recipe of a row, with the sizes of its backbone as suggestions."""
    sizes = numbers.get("backbone_params")
    if sizes is None:
        sizes = {name: numbers[name] for name in IN_OLD_RECIPES if name in numbers}
    known = {field.name for field in fields(Recipe)} - {"sizes"}
    values = {name: _frozen(value) for name, value in numbers.items() if name in known}
    return Recipe(**values, sizes=tuple(sorted(sizes.items())))


def _frozen(value: Any) -> Any:
    """JSON lists as the tuples that they were."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
