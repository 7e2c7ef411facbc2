"""Bring a trained cell before a probe: checks first, then weights, contexts in pieces, stored readings."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import lgbench
from lgbench.errors import UserError
from lgbench.intervention import Composed, overridden_hooks, parts_of
from lgbench.method import Method
from lgbench.models.model import Model, build_model
from lgbench.plan.cells import Cell, checkpoint_folder, load_method, load_task
from lgbench.plan.params import PluginRequest, label, params_json
from lgbench.plugins.registry import BACKBONES
from lgbench.probe import Probe, Readings, Recorder
from lgbench.run import provenance
from lgbench.run.calibrate import fit_lengths
from lgbench.run.evaluate import autocast
from lgbench.run.measure import EVAL_SEED, trained_model
from lgbench.run.reading import ContextReader, Window
from lgbench.store.readings import key_of, read_readings, readings_path, write_readings
from lgbench.task import EvalSet, Task, Tensors

BATCH = 8
"""Items that are read side by side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What a probe is asked for, beside the cell."""

    lengths: tuple[int, ...] = ()
    """Context lengths in the task's unit; empty for those that the probe suggests."""
    layers: tuple[int, ...] = ()
    """Layers from 0; empty for all."""
    num_items: int | None = None
    device: str = "cpu"
    data_dir: Path | None = None
    force: bool = False


class Subject:
    """A trained model and the items that it reads, as a probe sees them.

    Args:
        cell: what was trained.
        task: prepared.
        method: of the cell.
        model: trained, in evaluation mode.
        items: evaluation items.
        lengths: context lengths to read, in the task's unit.
        num_items: items to read.
        fits: fitted parameters of the method by length.
    """

    def __init__(
        self,
        cell: Cell,
        task: Task,
        method: Method,
        model: Model,
        items: EvalSet,
        lengths: tuple[int, ...],
        num_items: int,
        fits: dict[int, dict[str, Tensor]],
    ) -> None:
        self.cell, self.task, self.method, self.model, self.items = cell, task, method, model, items
        self.lengths, self.num_items, self.fits = lengths, num_items, fits
        self.reader = ContextReader(model, method, task.context_tokens, self.train_length)

    @property
    def train_length(self) -> int:
        """Longest context in training, in the task's unit."""
        return self.cell.recipe.train_length

    @property
    def num_layers(self) -> int:
        """Blocks of the backbone."""
        return self.cell.recipe.num_layers

    def batches(self, length: int) -> Iterator[slice]:
        """Items of this length, a few at a time."""
        count = min(self.num_items, self.items.num_items_at(length))
        return (slice(k, min(k + BATCH, count)) for k in range(0, count, BATCH))

    def tokens(self, length: int, chosen: slice) -> Callable[[int, int], Tensors]:
        """What gives a part of the contexts of these items."""
        return partial(self._part, chosen, length)

    def window(self, length: int) -> Window:
        """What the method reads of a context of this length, and the length that it is given."""
        return self.reader.window(length, self.items.num_tokens(length))

    def read(self, length: int, chosen: slice, *, fitted_for: int | None = None) -> list:
        """The state after the whole contexts of these items."""
        return self.stream(self.tokens(length, chosen), self.window(length), fitted_for or length)

    def stream(
        self,
        tokens: Callable[[int, int], Tensors],
        window: Window,
        length: int,
        *,
        stop: int | None = None,
        state: list | None = None,
    ) -> list:
        """The state after any tokens from `window.first` to `stop`, in pieces.

        Args:
            tokens: gives those from one place to another.
            window: where to start, and the length to announce.
            length: whose fitted parameters are used, in the task's unit.
            stop: end, exclusive; None is the end of a context of `length`.
            state: to continue from.
        """
        self.model.intervention.use(self.fits.get(length, {}))
        found = self.reader.stream(
            tokens, window, self.items.num_tokens(length) if stop is None else stop, state
        )
        if found is None:
            raise UserError(f"no token was read up to {stop} of a context of {length}")
        return found

    def paint(self, state: list, chosen: slice, announced: int) -> Any:
        """Pictures `(items, height, width)` that the model paints from a state, and none of it changes."""
        queries = self.items.gallery_queries(chosen)
        count = next(iter(queries.values())).shape[1]
        answer = self.model.answer_from(state, queries, count, announced)
        return self.items.gallery_images(answer.float())

    def score(
        self, state: list, length: int, chosen: slice, num_queries: int, announced: int | None = None
    ) -> Tensor:
        """The task's score of each query `(items, num_queries)` after a context; answers are not generated.

        Args:
            state: after the context.
            length: in the task's unit.
            chosen: the items.
            num_queries: how many, from the first on.
            announced: length that is given to the method; None is the true one.
        """
        queries, targets = self.items.queries(chosen, length, num_queries)
        told = self.window(length).announced if announced is None else announced
        return self.task.score(self.model.answer_from(state, queries, targets.shape[1], told), targets)

    def tokens_in_front(self) -> int:
        """Tokens that the method puts before the first one of a context."""
        change = self.model.intervention
        if "sequence" not in overridden_hooks(change):
            return 0
        change.begin("prefill", 1, 0)
        tokens = next(self.model.parameters()).new_zeros(1, 1, self.cell.recipe.d_model)
        return change.sequence(tokens).shape[1] - 1

    def untrained(self) -> Subject | None:
        """The same before training; None where training began from given weights."""
        cell = self.cell
        if cell.recipe.pretrained or cell.recipe.weights:
            return None
        model = build_model(
            self.task, self.method, cell.recipe, seed=cell.seed, backbone=cell.training.backbone,
            params=json.loads(cell.training.backbone_params),
        ).eval()  # fmt: skip
        return Subject(cell, self.task, self.method, model, self.items, self.lengths, self.num_items, {})

    @contextmanager
    def watched(self, recorder: Recorder) -> Iterator[None]:
        """Let the recorder see everything that the model computes."""
        undisturbed = self.model.intervention
        self.model.intervention = Composed([*parts_of(undisturbed), recorder])
        try:
            yield
        finally:
            self.model.intervention = undisturbed

    def _part(self, chosen: slice, length: int, start: int, stop: int) -> Tensors:
        return self.items.context(chosen, start, stop, length)


def look(
    probe: Probe,
    name: str,
    cell: Cell,
    root: Path,
    asked: Look,
    *,
    out: Path | None = None,
    on_progress: Callable[[str], None] = lambda what: None,
) -> tuple[Path, Readings]:
    """Readings of one cell: those that are stored already, or new ones, stored now.

    Args:
        probe: with its parameters and its identity.
        name: of the probe.
        cell: a trained one, whose rows are in `root`.
        root: results folder.
        asked: lengths, layers, items.
        out: where readings are kept and looked for; None is `root`.
        on_progress: is called with what happens next.

    Raises:
        UserError: something that was asked for does not fit; said before any weights are read.
    """
    layers = _layers(asked.layers, cell)
    lengths = tuple(sorted({*asked.lengths})) or probe.lengths(cell.recipe.train_length)
    num_items = asked.num_items or probe.num_items
    params = params_json(probe.params)
    wanted = {
        "probe": name, "identity": probe.identity, "params": params, "lengths": lengths, "layers": layers,
        "items": num_items, "seed": EVAL_SEED,
    }  # fmt: skip
    path = readings_path(out or root, cell.task, cell.key, name, key_of(wanted))
    if path.exists() and not asked.force:
        return path, read_readings(path)
    task = _task(cell, torch.device(asked.device), asked.data_dir)
    items = _items(task, cell, num_items)
    method = load_method(cell.method, cell.method_params)
    _check(probe, name, cell, task, items, method, lengths)
    try:
        model, _, weights = trained_model(cell, task, root)
    except FileNotFoundError as error:
        raise UserError(
            f"cell {cell.key} was never trained here: {error}. Its training can be run again"
        ) from None
    model.eval().requires_grad_(False)
    recipe = replace(cell.recipe, eval_lengths=probe.fitted_lengths(lengths))
    fits = fit_lengths(
        model, task, method, recipe, name=cell.method, seed=cell.seed,
        folder=checkpoint_folder(root, cell.training), on_progress=on_progress,
    )  # fmt: skip
    subject = Subject(
        cell, task, method, model, items, lengths, num_items, {n: dict(fit.values) for n, fit in fits.items()}
    )
    recorder = probe.recorder(layers)
    on_progress(f"{name} on {cell.label}, seed {cell.seed}")
    with torch.no_grad(), autocast(task.device, recipe), subject.watched(recorder):
        probe.read(subject, recorder)
    readings = probe.result(recorder)
    readings.facts |= json.loads(json.dumps(wanted)) | _facts(cell, task, weights, items)
    readings.facts["probe_label"] = label(name, probe.params)
    write_readings(path, readings)
    return path, readings


def _layers(asked: Sequence[int], cell: Cell) -> tuple[int, ...]:
    count = cell.recipe.num_layers
    wrong = [layer for layer in asked if not 0 <= layer < count]
    if wrong:
        raise UserError(f"--layers {wrong[0]}: cell {cell.key} has the layers 0 to {count - 1}")
    return tuple(sorted({*asked})) or tuple(range(count))


def _task(cell: Cell, device: torch.device, data_dir: Path | None) -> Task:
    task = load_task(PluginRequest(cell.task, json.loads(cell.task_params)))
    task.prepare(device, data_dir)
    if task.data_fingerprint != cell.training.data_fingerprint:
        raise UserError(
            f"the data of {cell.task} here ({task.data_source}) are not those that cell {cell.key} was "
            "trained on; say where they are with --data-dir"
        )
    return task


def _items(task: Task, cell: Cell, num_items: int) -> EvalSet:
    """As many items; the first ones of the evaluation's where a task has no sets of that size."""
    try:
        return task.eval_set(num_items, EVAL_SEED)
    except UserError:
        return task.eval_set(cell.recipe.eval_items, EVAL_SEED)


def _check(
    probe: Probe, name: str, cell: Cell, task: Task, items: EvalSet, method: Method, lengths: Sequence[int]
) -> None:
    """Refuse what does not fit, before weights are read."""
    kind = BACKBONES.load(cell.training.backbone)
    reason = probe.applies(task, items, method, kind)
    change = method.intervention(task.context_tokens(cell.recipe.train_length), cell.recipe.d_model)
    if reason is None and kind.layout != "causal":
        reason = f"it reads contexts in pieces, and {cell.training.backbone} needs them whole"
    if reason is None and "keep" in overridden_hooks(change):
        reason = f"it reads contexts in pieces, and {cell.method} chooses among all tokens of a whole one"
    if reason is not None:
        raise UserError(f"probe {name} cannot look at cell {cell.key} ({cell.label}): {reason}")
    if lengths[0] < task.min_length:
        raise UserError(f"--length {lengths[0]}: {cell.task} has no context shorter than {task.min_length}")
    try:
        items.reach(lengths[-1])
    except UserError as error:
        reason = str(error).removeprefix("--eval-lengths: ")
        raise UserError(f"--length {lengths[-1]}: {reason}") from None


def _facts(cell: Cell, task: Task, weights: str, items: EvalSet) -> dict[str, Any]:
    """What is stored of the cell beside the readings."""
    return {
        "cell": cell.key,
        "training": cell.training.key,
        "task": cell.task,
        "task_params": cell.task_params,
        "method": cell.method,
        "label": cell.label,
        "backbone": cell.backbone_label,
        "train_length": cell.recipe.train_length,
        "train_steps": cell.recipe.train_steps,
        "num_layers": cell.recipe.num_layers,
        "length_unit": task.length_unit,
        "model_seed": cell.seed,
        "seed": cell.seed,
        "step": cell.step,
        "data_source": task.data_source,
        "notice": task.notice,
        "metric": task.metric.name,
        "weights_digest": weights,
        "items_hash": items.fingerprint,
        "device": provenance.device_name(task.device),
        "package_version": lgbench.__version__,
        "commit": provenance.commit(),
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
