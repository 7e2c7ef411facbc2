"""Turn one trained cell into rows: load its weights, evaluate, and say where every number comes from."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

import lgbench
from lgbench.data.fingerprint import digest
from lgbench.method import Method
from lgbench.models.model import Model, build_model
from lgbench.plan.cells import Cell, Training, checkpoint_folder, load_method
from lgbench.plan.params import params_json
from lgbench.plugins.registry import BACKBONES
from lgbench.run import checkpoint, provenance
from lgbench.run.calibrate import Fit, check_disjoint, evaluated_lengths, fit_lengths
from lgbench.run.evaluate import Fitted, evaluate
from lgbench.run.failures import is_out_of_memory, last_line, writable
from lgbench.run.gallery import gallery
from lgbench.run.kept import Row, kept_rows, point, points, together, without
from lgbench.run.measurement import Measurement
from lgbench.run.room import Lost, NoRoom
from lgbench.run.schedule import stage_lengths
from lgbench.stats.intervals import bootstrap_interval, wilson_interval
from lgbench.store import SCHEMA, Store, as_texts, atomic_file
from lgbench.store.schema import recipe_columns, split_facts
from lgbench.task import Metric, Recipe, Task

EVAL_SEED = 0
"""Of the first draw of evaluation items: the same for all methods and seeds; comparisons are paired."""

AT_REST = "at rest: the method changes nothing at this length"
"""Reason of an ok row whose numbers are those of the baseline."""


class Items:
    """The fixed evaluation items of a task, with the scores of answers that ignore the context.

    Args:
        task: prepared.
        num_items: how many.
        longest: the longest context that they will have; None leaves it to them.
        draw: which draw of them; see `Recipe.eval_draw`.
    """

    def __init__(self, task: Task, num_items: int, longest: int | None = None, draw: int = 0) -> None:
        self.task, self.items = task, task.eval_set(num_items, EVAL_SEED + draw)
        if longest is not None:
            self.items.reach(longest)
        self.fingerprint = self.items.fingerprint
        if task.identity not in ("", "v1"):  # the first version of a built-in task goes by its items alone
            self.fingerprint = digest(self.fingerprint, task.identity)
        self._references: dict[tuple[int, str], dict[str, float]] = {}

    def references(self, num_queries: int, metric: Metric) -> dict[str, float]:
        """Reference scores on the first queries of each item, computed once."""
        key = num_queries, metric.name
        if key not in self._references:
            self._references[key] = dict(self.task.references(self.items, num_queries, metric))
        return self._references[key]


def run_cell(
    cell: Cell,
    task: Task,
    items: Items,
    store: Store,
    scan_backend: str = "auto",
    on_progress: Callable[[str], None] = lambda what: None,
    anew: bool = False,
) -> list[Row]:
    """Evaluate a trained cell; its rows, one a point of an axis. Reconstructions go beside them.

    What an earlier run measured with the same weights and items stays, unless all is asked for `anew`.

    Raises:
        FileNotFoundError: the training did not leave the weights.
    """
    method = load_method(cell.method, cell.method_params)
    model, facts, digest_of_weights = trained_model(cell, task, store.root, scan_backend)
    no_fit: dict[int, str] = {}
    fits = fit_lengths(
        model, task, method, cell.recipe,
        name=cell.method, seed=cell.seed, folder=checkpoint_folder(store.root, cell.training),
        on_progress=on_progress, lost=no_fit,
    )  # fmt: skip
    recipe, lost = _with_room(cell.recipe, no_fit)
    check_disjoint(fits, items.items, evaluated_lengths(recipe))
    fitted = {length: fit.values for length, fit in fits.items()}
    same = {"weights_digest": digest_of_weights, "items_hash": items.fingerprint}
    kept = [] if anew else kept_rows(store, cell, **same)
    # the losses between two neighbours of the grid need all of it
    left = recipe if task.lm_metric is not None else without(recipe, kept)
    measurements = evaluate(model, task, method, left, items.items, on_progress, fitted, lost)
    if not measurements and not kept:
        raise NoRoom(lost[0].reason)
    pictures = _pictures(model, task, method, recipe, items, fitted, lost)
    if pictures is not None:
        with (
            atomic_file(store.root / "strips" / cell.task / f"{cell.key}.npz") as temporary,
            open(temporary, "wb") as file,
        ):
            np.savez_compressed(
                file, **{k: v.astype("float16") if v.ndim > 1 else v for k, v in pictures.items()}
            )
    common = _common(cell, task, method, store) | _trained(model, facts, task.device)
    common["weights_digest"] = digest_of_weights
    measured = [
        common
        | _references(items, m.num_queries, m.metric)
        | _assumed(method, cell, m, fits.get(m.eval_length, Fit()))
        | _measured(m)
        for m in measurements
    ]
    no_room = [
        common | _references(items, one.num_queries, task.metric) | _unmeasured(items, one) for one in lost
    ]
    return together(kept, measured + no_room)


def _with_room(recipe: Recipe, no_fit: Mapping[int, str]) -> tuple[Recipe, list[Lost]]:
    """The recipe without the points whose calibration had no room, and these points."""
    if not no_fit:
        return recipe, []
    first, reason = min(no_fit.items())
    lengths = tuple(length for length in recipe.eval_lengths if length < first)
    lost = [
        Lost("context", length, recipe.eval_queries, reason)
        for length in recipe.eval_lengths
        if length not in lengths
    ]
    if recipe.train_length not in no_fit:
        return replace(recipe, eval_lengths=lengths), lost
    lost += [Lost("queries", recipe.train_length, number, reason) for number in recipe.query_grid]
    return replace(recipe, eval_lengths=lengths, query_grid=()), lost


def _pictures(
    model: Model,
    task: Task,
    method: Method,
    recipe: Recipe,
    items: Items,
    fitted: Fitted,
    lost: Sequence[Lost],
) -> dict[str, np.ndarray] | None:
    """Reconstructions at the lengths that were measured; None if there are none, or no room for them."""
    without = {one.eval_length for one in lost if one.axis == "context"}
    lengths = tuple(length for length in recipe.eval_lengths if length not in without)
    try:
        return gallery(model, task, method, replace(recipe, eval_lengths=lengths), items.items, fitted)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return None


def trained_model(
    cell: Cell, task: Task, root: Path, scan_backend: str = "auto"
) -> tuple[Model, dict[str, Any], str]:
    """Return the trained model of a cell, what its checkpoint says of it, and the digest of the weights.

    Raises:
        FileNotFoundError: the training did not leave the weights.
    """
    path = checkpoint.weights_path(checkpoint_folder(root, cell.training), cell.step)
    loaded = checkpoint.load(path)
    if loaded is None:
        raise FileNotFoundError(f"no readable weights at {path}")
    weights, facts = loaded
    recipe = replace(cell.recipe, pretrained="", weights="")  # all its weights are at hand
    if cell.recipe.pretrained:  # which decided the vocabulary, and whether the head is the embedding
        task.vocabulary = len(weights["interface.embedding.weight"])
        recipe = replace(recipe, untied="interface.head.weight" in weights)
    model = build_model(
        task, load_method(cell.method, cell.method_params), recipe, seed=cell.seed,
        scan_backend=scan_backend, backbone=cell.training.backbone,
        params=json.loads(cell.training.backbone_params),
    )  # fmt: skip
    model.load_state_dict(weights)
    return model, facts, checkpoint.tensors_digest(weights)


def unmeasured_row(cell: Cell, task: Task, store: Store, status: str, reason: str) -> Row:
    """The one row of a cell that has no numbers: diverged, out_of_memory, failed or skipped, and why."""
    method = load_method(cell.method, cell.method_params)
    row = _common(cell, task, method, store)
    metric = task.metric
    known = {
        "metric": metric.name,
        "higher_is_better": metric.higher_is_better,
        "best": metric.best,
        "combine": metric.combine,
        "axis": "context",
    }
    return (
        row
        | known
        | {
            "status": status,
            "reason": reason,
            "device": provenance.device_name(task.device),
        }
    )


def give_up(cell: Cell, task: Task, store: Store, status: str, reason: str, anew: bool = False) -> str:
    """A cell that cannot be measured becomes a row with its status; the traceback is kept beside it.

    What an earlier run measured stays, unless all was asked for `anew`; then every other point has a row.

    Returns:
        the last line of the reason, which the rows have.
    """
    reason = writable(reason)
    last = last_line(reason)
    if last != reason.strip() and reason.strip():
        with atomic_file(failure_path(store.root, cell)) as temporary:
            temporary.write_text(reason, encoding="utf-8")
    kept, row = [] if anew else kept_rows(store, cell), unmeasured_row(cell, task, store, status, last)
    known = {point(one) for one in kept}
    places = [one for one in points(cell.recipe) if one not in known] if kept else []
    lost = [
        row | {"axis": axis, "eval_length": length, "num_queries": number or cell.recipe.eval_queries}
        for axis, length, number in places
    ]
    store.write(cell.task, cell.key, kept + (lost or [row]))
    return last


def ending(rows: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """Status and reason of a cell with these rows: those of the first that has no number, or "ok"."""
    bad = next((row for row in rows if row["status"] != "ok"), rows[0])
    return bad["status"], bad["reason"] or ""


def _common(cell: Cell, task: Task, method: Method, store: Store) -> Row:
    recipe, training = cell.recipe, cell.training
    return dict.fromkeys(SCHEMA.names) | {
        "cell": cell.key,
        "training": training.key,
        "task": cell.task,
        "task_params": as_texts(json.loads(params_json(task.params, task.data_params))),
        "task_identity": training.task_identity,
        "data_source": task.data_source,
        "data_fingerprint": task.data_fingerprint,
        "notice": task.notice,
        "method": cell.method,
        "method_params": as_texts(json.loads(params_json(method.params))),
        "method_identity": cell.method_identity,
        "label": cell.label,
        "backbone": cell.backbone_label,
        "backbone_params": as_texts(_backbone_params(training)),
        "backbone_identity": training.backbone_identity,
        "calibration_format": cell.calibration_format,
        "preset": cell.preset,
        "recipe": as_texts(asdict(recipe)),
        **recipe_columns(recipe),
        "d_state": _backbone_params(training).get("d_state", 0),
        "seed": cell.seed,
        "train_low": stage_lengths(training, 0)[0],
        "train_high": training.high,
        "length_unit": task.length_unit,
        "horizon": task.horizon,
        "learned": task.learned,
        "context_means": task.context_means,
        "step": cell.step,
        "protocol": method.protocol,
        "needs_length": method.needs_length,
        "environment": store.write_environment(provenance.environment(task.device)),
        "package_version": lgbench.__version__,
        "commit": provenance.commit(),
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _backbone_params(training: Training) -> dict[str, Any]:
    """All parameters of the backbone."""
    params = BACKBONES.load(training.backbone).Params.model_validate_json(training.backbone_params)
    return params.model_dump(mode="json")


def _trained(model: Model, facts: dict[str, Any], device: torch.device) -> Row:
    return {
        "num_parameters": model.num_parameters,
        "device": provenance.device_name(device),
        "apply_in_decode": model.intervention.apply_in_decode and model.intervention.apply_to_generated,
        "train_scan_backend": facts["scan_backend"],
        "train_loss": facts["train_loss"],
        "train_wall_s": facts["train_wall_s"],
        "train_tokens_per_s": facts["train_tokens_per_s"],
    }


def _references(items: Items, num_queries: int, metric: Metric) -> Row:
    references = items.references(num_queries, metric)
    return {
        "metric": metric.name,
        "higher_is_better": metric.higher_is_better,
        "best": metric.best,
        "combine": metric.combine,
        "chance": references["chance"],
        "references": dict(sorted(references.items())),
        "items_hash": items.fingerprint,
    }


def _assumed(method: Method, cell: Cell, m: Measurement, fit: Fit) -> Row:
    return {
        "assumed_length": method.assumed_length(m.eval_length, cell.recipe.train_length),
        "num_fitted": fit.num_fitted,
        "calibration_tokens": fit.tokens,
        "calibration_wall_s": fit.wall_s,
        "kept_tokens": list(m.kept_tokens) or None,
    }


def _measured(m: Measurement) -> Row:
    finite = bool(np.isfinite(m.values).all())
    combine = np.exp if m.metric.combine == "exp_mean" else float
    low, high = map(float, map(combine, _interval(m))) if finite else (None, None)
    numbers, words = split_facts({name: kept for name, kept in m.facts.items() if name != "cluster"})
    return {
        "status": "ok" if finite else "diverged",
        "reason": _reason(m, finite),
        "axis": m.axis,
        "eval_length": m.eval_length,
        "num_queries": m.num_queries,
        "value": float(combine(m.values.mean())) if finite else None,
        "ci_low": low,
        "ci_high": high,
        "std": float(m.values.std(ddof=1)) if finite and len(m.values) > 1 else None,
        "item_values": m.values.tolist(),
        "num_items": len(m.values),
        "item_facts": numbers,
        "item_texts": words,
        "item_clusters": list(m.clusters) or None,
        "state_bytes": m.state_bytes,
        "context_tokens": m.context_tokens,
        "shared_prefix": m.shared_prefix,
        "scan_backend": m.scan_backend,
        "eval_wall_s": m.wall_s,
        "eval_tokens_per_s": m.tokens / m.wall_s,
        "warm_tokens_per_s": m.warm_tokens_per_s,
        "peak_bytes": m.peak_bytes,
    }


def _unmeasured(items: Items, point: Lost) -> Row:
    """Of a point that memory had no room for."""
    return {
        "status": "out_of_memory",
        "reason": point.reason,
        "axis": point.axis,
        "eval_length": point.eval_length,
        "num_queries": point.num_queries,
        "context_tokens": items.items.num_tokens(point.eval_length),
    }


def _reason(m: Measurement, finite: bool) -> str:
    if not finite:
        return f"{int((~np.isfinite(m.values)).sum())} items have no finite score"
    return AT_REST if m.at_rest else ""


def _interval(m: Measurement) -> tuple[float, float]:
    """95 % interval over the items of this one model."""
    if m.metric.interval == "wilson":
        return wilson_interval(float(m.values.mean()), len(m.values))
    return bootstrap_interval(m.values)


def failure_path(root: Path, cell: Cell) -> Path:
    """Where the traceback of a failed cell is kept."""
    return root / "failures" / f"{cell.key}.txt"
