"""Name trainings and cells by what decides their numbers.

A key is a hash of the fields that *differ from their defaults*, of the formats, of what stands for the code
of the plugins (`Registry.identity`), and of the fingerprint of the data. A new field with a default therefore
changes no key; whoever changes a default raises a version or a format. Labels and presets are in no key.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from lgbench.recipe import Recipe

if TYPE_CHECKING:
    from lgbench.plan.cells import Cell, Training

TRAINING_FORMAT = 1
"""Raised when a change of the core makes trainings with equal settings give other weights."""

EVALUATION_FORMAT = 1
"""Raised when a change of the core gives other scores of equal weights."""


def training_key(training: Training) -> str:
    """Return the name of a checkpoint folder, 16 hex digits."""
    return _hash(_training(training))


def cell_key(cell: Cell) -> str:
    """Return the name of a result file, 16 hex digits."""
    evaluation = {
        "task_params": json.loads(cell.task_params),
        "method": [cell.method, json.loads(cell.method_params), cell.method_identity],
        "recipe": changed_fields(cell.recipe),
        "step": cell.step,
        "formats": [EVALUATION_FORMAT, cell.calibration_format],
    }
    return _hash({"training": _training(cell.training), "evaluation": evaluation})


def new_keys(row: Mapping[str, Any]) -> tuple[str, str]:
    """Cell key and training key that an old row has today; see `lgbench.plan.rekey`, which loads plugins."""
    from lgbench.plan import rekey

    return rekey.new_keys(row)


def changed_params(params: BaseModel, without: frozenset[str] = frozenset()) -> str:
    """Return the parameters that differ from their defaults, as canonical JSON.

    Args:
        params: of a plugin.
        without: names that are left out.
    """
    declared = type(params).model_fields
    changed = {
        name
        for name, field in declared.items()
        if name not in without
        and (field.is_required() or getattr(params, name) != field.get_default(call_default_factory=True))
    }
    dumped = params.model_dump(mode="json", include=changed)
    return json.dumps(dumped, sort_keys=True, separators=(",", ":"))


def changed_fields(recipe: Recipe) -> dict[str, Any]:
    """Return the fields of a recipe that have no default or another value than it."""
    values = {field.name: (field, getattr(recipe, field.name)) for field in fields(recipe)}
    return {name: value for name, (field, value) in values.items() if value != _default(field)}


def _default(field: Field[Any]) -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default


def _training(training: Training) -> dict[str, Any]:
    return {
        "format": TRAINING_FORMAT,
        "task": [training.task, json.loads(training.task_params), training.task_identity],
        "data": training.data_fingerprint,
        "method": [training.method, json.loads(training.method_params), training.method_identity],
        "backbone": [
            training.backbone.partition(":")[0],  # the member is in the identity
            json.loads(training.backbone_params),
            training.backbone_identity,
        ],
        "lengths": [training.low, training.high],
        "recipe": changed_fields(training.recipe),
        "seed": training.seed,
    }


def _hash(document: dict[str, Any]) -> str:
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
