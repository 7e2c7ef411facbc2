"""Load the weights that a cell is measured with: those of its step, or the best of several by validation.

    RESULTS/checkpoints/TRAINING/best-HASH.json     validation losses by step; the hash is of all that decides

Validation items are of the training split, with the training's longest context and a seed of their own, so
neither evaluation items nor longer contexts have a say. The loss is the task's, under the method that was
trained: remedies share the choice.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lgbench.method import Method
from lgbench.models.model import Model, build_model
from lgbench.plan.cells import Cell, checkpoint_folder, load_method
from lgbench.run import checkpoint
from lgbench.run.calibrate import CalibrationData
from lgbench.run.evaluate import autocast
from lgbench.store import atomic_file
from lgbench.task import Task

MOST_ITEMS = 1024
"""Validation items: as many as are evaluated, at most these."""


def trained_model(
    cell: Cell, task: Task, root: Path, scan_backend: str = "auto"
) -> tuple[Model, dict[str, Any], str]:
    """Return the trained model of a cell, what its checkpoint says of it, and the digest of the weights.

    Raises:
        FileNotFoundError: the training did not leave the weights.
    """
    step = best_step(cell, task, root, scan_backend) if cell.recipe.best_of else cell.step
    method = load_method(cell.method, cell.method_params)
    return _model_at(step, cell, method, task, root, scan_backend)


def best_step(cell: Cell, task: Task, root: Path, scan_backend: str = "auto") -> int:
    """The step of lowest validation loss among those that compete; the earliest of equal ones.

    Raises:
        FileNotFoundError: the training did not leave the weights of one.
    """
    training, steps = cell.training, sorted(cell.competing)
    method = load_method(training.method, training.method_params)
    recipe = cell.recipe
    data = CalibrationData(task, method, recipe, cell.seed, {})
    batch = data.draw("validation", min(recipe.eval_items, MOST_ITEMS), recipe.train_length)
    found: dict[int, tuple[Model, str]] = {}
    for step in steps:
        model, _, digest = _model_at(step, cell, method, task, root, scan_backend)
        found[step] = model.eval().requires_grad_(False), digest
    asked = {
        "weights": {step: digest for step, (_, digest) in found.items()},
        "items": data.digests[recipe.train_length],
        "queries": recipe.train_queries[1],
        "precision": recipe.eval_precision,
    }
    name = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]
    path = checkpoint_folder(root, training) / f"best-{name}.json"
    losses = _read(path, steps)
    if losses is None:
        with autocast(task.device, recipe):
            losses = {step: data.loss(model, batch, {}) for step, (model, _) in found.items()}
        with atomic_file(path) as temporary:
            temporary.write_text(json.dumps({"validation_loss": losses}, indent=1), encoding="utf-8")
    return lowest(losses)


def lowest(losses: Mapping[int, float]) -> int:
    """The step of the lowest loss; one that is not a number never wins, unless none is: then the last."""
    finite = {step: loss for step, loss in losses.items() if math.isfinite(loss)}
    return min(finite, key=lambda step: (finite[step], step)) if finite else max(losses)


def _read(path: Path, steps: list[int]) -> dict[int, float] | None:
    """Losses that are stored; None where they are not, or not whole."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))["validation_loss"]
        losses = {int(step): float(loss) for step, loss in kept.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return losses if sorted(losses) == steps else None


def _model_at(
    step: int, cell: Cell, method: Method, task: Task, root: Path, scan_backend: str
) -> tuple[Model, dict[str, Any], str]:
    path = checkpoint.weights_path(checkpoint_folder(root, cell.training), step)
    loaded = checkpoint.load(path)
    if loaded is None:
        raise FileNotFoundError(f"no readable weights at {path}")
    weights, facts = loaded
    recipe = replace(cell.recipe, pretrained="", weights="")  # all its weights are at hand
    if cell.recipe.pretrained:  # which decided the vocabulary, and whether the head is the embedding
        task.vocabulary = len(weights["interface.embedding.weight"])
        recipe = replace(recipe, untied="interface.head.weight" in weights)
    model = build_model(
        task, method, recipe, seed=cell.seed,
        scan_backend=scan_backend, backbone=cell.training.backbone,
        params=json.loads(cell.training.backbone_params),
    )  # fmt: skip
    model.load_state_dict(weights)
    return model, facts | {"step": step}, checkpoint.tensors_digest(weights)
