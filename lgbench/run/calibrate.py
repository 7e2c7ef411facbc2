"""Fit a method's few free parameters on training data, for each length that asks for it, once a checkpoint.

    CHECKPOINTS/TRAINING/fit-HASH.safetensors      parameters by name; the hash is of all that decides them

A calibrator gets `CalibrationData` and nothing else: items of the training split, drawn with seeds of their
own. It cannot ask for an evaluation item, and `check_disjoint` compares the items afterwards.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from lgbench.method import Method
from lgbench.models.model import Model
from lgbench.plan.keys import changed_params
from lgbench.run import checkpoint
from lgbench.run.evaluate import autocast
from lgbench.run.reading import PIECE, ContextReader, can_stream
from lgbench.run.room import NoRoom, Room
from lgbench.task import Batch, EvalSet, Recipe, Task, Tensors

CALIBRATION_FORMAT = 2
"""Raised when a change of the code makes equal calibrations give other parameters."""

HEAD = 256
"""Tokens by which items are compared first, since hashing whole contexts takes long."""

Digests = dict[int, list[tuple[str, str]]]
"""By context length, hashes of the first tokens and of the whole context of each item."""

Plan = tuple[int | None, ...]
"""The length that each part of a method is fitted for; None for one that is not."""


@dataclass(frozen=True, slots=True)
class Fit:
    """Fitted parameters and what they cost; the fields of several parts of a method add up."""

    values: dict[str, Tensor] = field(default_factory=dict)
    tokens: int = 0
    wall_s: float = 0.0
    digests: Digests = field(default_factory=dict)

    @property
    def num_fitted(self) -> int:
        """Number of fitted scalars."""
        return sum(v.numel() for v in self.values.values())

    def __add__(self, other: Fit) -> Fit:
        digests = {
            n: self.digests.get(n, []) + other.digests.get(n, []) for n in self.digests | other.digests
        }
        return Fit(
            self.values | other.values, self.tokens + other.tokens, self.wall_s + other.wall_s, digests
        )


class CalibrationData:
    """Items of the training split, and the task's own loss on them: all that a calibrator can reach.

    Args:
        task: prepared.
        method: decides which part of a context is read.
        recipe: queries and batch sizes.
        seed: of the training; another one calibrates on other items.
        earlier: parameters that were fitted before these, and stay as they are.
    """

    def __init__(
        self, task: Task, method: Method, recipe: Recipe, seed: int, earlier: Mapping[str, Tensor]
    ) -> None:
        self._sample, self._loss, self._device = task.sample, task.loss, task.device
        self._context_tokens = task.context_tokens
        self._method, self._recipe, self._seed, self._earlier = method, recipe, seed, dict(earlier)
        self.train_length, self.num_queries = recipe.train_length, recipe.train_queries[1]
        self._extents: dict[int, int] = {}
        """Length in the task's unit of batches drawn here, by their width in tokens."""
        self.tokens, self.digests = 0, Digests()

    def draw(self, part: str, num_items: int, length: int) -> Batch:
        """Items with `length` context tokens; the same ones for the same arguments, on every device.

        Args:
            part: "calibration" for fitting, "validation" for choosing among what was fitted.
            num_items: how many.
            length: of the context, tokens.
        """
        name = f"{part} {self._seed} {length}".encode()
        seed = int.from_bytes(hashlib.sha256(name).digest()[:7], "little")
        batch = self._sample(num_items, length, self.num_queries, torch.Generator().manual_seed(seed))
        self._extents[_length(batch.context)] = length
        self.tokens += int(batch.num_tokens())
        self.digests.setdefault(length, []).extend(
            zip(_digests(batch.context, HEAD), _digests(batch.context), strict=True)
        )
        parts = ({n: v.to(self._device) for n, v in part.items()} for part in (batch.context, batch.queries))
        return Batch(*parts, batch.targets.to(self._device))

    def loss(self, model: Model, batch: Batch, trial: Mapping[str, Tensor]) -> float:
        """Mean loss of the queries with these parameters; adds to the gradients of those that require one.

        Context and queries are processed as in an evaluation: streamed where that is exact. Fewer items at a
        time are read in longer pieces, since a GPU waits for Python where little is done at once.
        """
        num_items, total = len(batch.targets), 0.0
        gradient = any(v.requires_grad for v in trial.values())
        with torch.set_grad_enabled(gradient):
            for losses in self._each(model, batch, trial, whole=gradient):
                loss = losses.mean() * (len(losses) / num_items)
                if gradient:
                    loss.backward()
                total += loss.item()
        return total

    def losses(self, model: Model, batch: Batch, trial: Mapping[str, Tensor]) -> Tensor:
        """Mean loss of the queries of each item `(num_items,)`, without gradients; else as `loss`."""
        with torch.no_grad():
            return torch.cat([part.mean(dim=1) for part in self._each(model, batch, trial, whole=False)])

    def _each(
        self, model: Model, batch: Batch, trial: Mapping[str, Tensor], *, whole: bool
    ) -> Iterator[Tensor]:
        """Losses `(some items, num_queries)`; `whole` takes fewer items at once, as if all were kept."""
        model.intervention.use(self._earlier | dict(trial))
        length, size = _length(batch.context), self._recipe.eval_batch
        if whole or not can_stream(model):
            size = max(1, min(size, size * PIECE // (length + self.num_queries)))
        for some in batch.parts(size):
            yield self._loss(self._answer(model, some, length), some.targets)

    def _answer(self, model: Model, batch: Batch, length: int) -> Tensor:
        reader = ContextReader(model, self._method, self._context_tokens, self.train_length)
        return reader.answer(
            partial(_span, batch.context),
            batch.queries,
            batch.targets,
            reader.window(self._extents[length], length),
            length,
            step=PIECE * max(1, self._recipe.eval_batch // len(batch.targets)),
        )


def fit_lengths(
    model: Model,
    task: Task,
    method: Method,
    recipe: Recipe,
    *,
    name: str,
    seed: int,
    folder: Path,
    on_progress: Callable[[str], None] = lambda what: None,
    lost: dict[int, str] | None = None,
) -> dict[int, Fit]:
    """Parameters for every context length of an evaluation that the method wants fitted ones for.

    Args:
        model: trained; its weights stay as they are and stop requiring gradients.
        task: prepared.
        method: what is fitted; parts of a composition are fitted one after another.
        recipe: lengths of the evaluation.
        name: of the method.
        seed: of the training.
        folder: where fits are kept and looked for.
        on_progress: told what is fitted next.
        lost: gets the lengths for which memory had no room, with the reason; those have no fit.
    """
    parts = method.parts(name)
    wanted = {
        n: plan for n, plan in fitted_lengths(method, recipe).items() if any(at is not None for at in plan)
    }
    if not wanted:
        return {}
    model.eval().requires_grad_(False)
    settings = {
        "format": CALIBRATION_FORMAT,
        "weights": checkpoint.tensors_digest(model.state_dict()),
        "task": [type(task).__name__, changed_params(task.params, task.data_params), task.data_fingerprint],
        "identities": [task.identity, method.identity],
        "queries": recipe.train_queries[1],
        "train_length": recipe.train_length,
        "precision": recipe.eval_precision,
        "seed": seed,
    }
    fits: dict[Plan, Fit] = {}
    room = Room(recipe.eval_batch)

    def fit_parts(plan: Plan) -> Fit:
        """One part after another, with as many items at a time as there is room for."""
        room.used, fit, numbers = room.batch, Fit(), replace(recipe, eval_batch=room.batch)
        for k, ((part_name, part), at) in enumerate(zip(parts, plan, strict=True)):
            if at is None:
                continue
            on_progress(f"calibration of {part_name} at {at}")
            path = folder / f"fit-{_hash(settings | _asked(parts, k, plan))}.safetensors"
            data = CalibrationData(task, method, numbers, seed, fit.values)
            with autocast(task.device, recipe):
                fit = fit + _load_or_fit(path, part, model, data, at)
        return fit

    for plan in dict.fromkeys(wanted.values()):  # shorter lengths first
        try:
            fits[plan] = room.fit(partial(fit_parts, plan), in_pieces=False)
        except NoRoom as error:
            if lost is None:
                raise
            lost |= {length: str(error) for length, asked in wanted.items() if asked not in fits}
            break
    return {length: fits[plan] for length, plan in wanted.items() if plan in fits}


def fitted_lengths(method: Method, recipe: Recipe) -> dict[int, Plan]:
    """By each evaluated length, the one that each part of a method is fitted for; None for one that is not.

    Behind a window a part is fitted for the length that it is told.
    """
    train_length, parts = recipe.train_length, [part for _, part in method.parts("")]
    told = {n: n - method.first_token(n, train_length) for n in sorted(evaluated_lengths(recipe))}
    return {n: tuple(part.calibration_length(told[n], train_length) for part in parts) for n in told}


def evaluated_lengths(recipe: Recipe) -> set[int]:
    """Context lengths of both axes."""
    return {*recipe.eval_lengths, *([recipe.train_length] if recipe.query_grid else [])}


def check_disjoint(fits: Mapping[int, Fit], items: EvalSet, lengths: Collection[int]) -> None:
    """Compare calibration items with evaluation items, at the lengths that are evaluated.

    Raises:
        ValueError: an item is in both sets.
    """
    found = {n: d for fit in fits.values() for n, d in fit.digests.items() if n in lengths}
    for length, digests in found.items():
        for start in range(0, items.num_items_at(length), 16):
            chosen = slice(start, min(start + 16, items.num_items_at(length)))
            tokens = items.num_tokens(length)
            head = tokens if items.padded else min(HEAD, tokens)  # padding is in front
            heads = _digests(items.context(chosen, 0, head, length), HEAD)
            if not set(heads) & {head for head, _ in digests}:
                continue
            wholes = _digests(items.context(chosen, 0, tokens, length))
            shared = set(wholes) & {whole for _, whole in digests}
            if shared:
                raise ValueError(
                    f"calibration and evaluation share {len(shared)} items of {length} context tokens: their "
                    "scores would not be honest. The task's sample must draw items that eval_set never has."
                )


def _asked(parts: list[tuple[str, Method]], current: int, plan: Plan) -> dict[str, object]:
    """What decides the fit of one part: the lengths so far, and the parameters that matter to it."""
    params = [
        [name, changed_params(part.params, part.calibration_free if k == current else frozenset())]
        for k, (name, part) in enumerate(parts)
    ]
    return {"part": current, "parts": params, "fitted_at": plan[: current + 1]}


def _load_or_fit(path: Path, part: Method, model: Model, data: CalibrationData, length: int) -> Fit:
    loaded = checkpoint.load(path)
    if loaded is not None:
        values, facts = loaded
        digests = {int(n): [tuple(pair) for pair in pairs] for n, pairs in facts["digests"].items()}
        device = next(model.parameters()).device
        return Fit({n: v.to(device) for n, v in values.items()}, facts["tokens"], facts["wall_s"], digests)
    began = time.monotonic()
    values = part.calibrate(model, data, length)
    values = {n: v.detach() for n, v in values.items()}
    fit = Fit(values, data.tokens, time.monotonic() - began, data.digests)
    checkpoint.save(path, values, {"tokens": fit.tokens, "wall_s": fit.wall_s, "digests": fit.digests})
    return fit


def _length(context: Tensors) -> int:
    return next(iter(context.values())).shape[1]


def _span(tensors: Tensors, start: int, stop: int) -> Tensors:
    return {name: values[:, start:stop] for name, values in tensors.items()}


def _digests(context: Tensors, stop: int | None = None) -> list[str]:
    """A hash of the first tokens of each item, of all if `stop` is None; padding does not count."""
    arrays = {name: context[name].cpu().contiguous() for name in sorted(context)}
    mask = arrays.pop("mask", None)
    found = []
    for k in range(len(next(iter(arrays.values())))):
        rows = (a[k] if mask is None else a[k][mask[k]] for a in arrays.values())
        found.append(hashlib.sha256(b"".join(row[:stop].numpy().tobytes() for row in rows)).hexdigest())
    return found


def _hash(settings: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
