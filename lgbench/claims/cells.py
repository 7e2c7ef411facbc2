"""Look up the measurements that claims read, in the rows of results folders and nowhere else."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lgbench.claims.model import SETTING, Model
from lgbench.claims.readings import Look, Reading, Stored, number
from lgbench.stats.rows import REQUIRED, find_faults
from lgbench.stats.scores import Floats
from lgbench.store import frame, from_texts, read
from lgbench.store.readings import Readings, all_readings

_SAME = ("recipe", "task_params", "backbone_params", "data_fingerprint")
"""Two cells of one model and seed may differ in the code that made them, in these columns they may not."""
_X = {"context": "eval_length", "queries": "num_queries"}
COLUMNS = ["cell", "seed", "status", "axis", "metric", "value", "best", "chance", "higher_is_better"]
COLUMNS += [
    "combine",
    "eval_length",
    "num_queries",
    "train_length",
    "item_values",
    "item_clusters",
    "items_hash",
]
COLUMNS += ["created_at", "training", *_SAME]
COLUMNS += [name for name in REQUIRED if name not in COLUMNS]
"""What claims read of a row once its model is known."""

Row = Mapping[str, Any]
_EVALUATION = ("eval_lengths", "eval_batch", "query_grid")
"""Numbers of a recipe that do not make two cells different experiments."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One number of every seed of a model.

    Attributes:
        axis: "context" or "queries".
        at: context length, or number of queries, in the unit of the task.
    """

    model: Model
    axis: str = "context"
    at: int


class NotRun(Exception):
    """A measurement is not in the store; the message says which."""


class Unusable(Exception):
    """Measurements are there, but nothing may be concluded from them; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What a point measured.

    Attributes:
        values: of the items, `(seeds, items)`; of a perplexity their logarithms, nats.
        clusters: of the items, None where each is its own.
        chance: value of the best answer that ignores the context, on the scale of `values`.
        is_share: whether the metric is one of shares, from 0 to 1.
    """

    values: Floats
    clusters: Sequence[str] | None
    chance: float
    is_share: bool


class Cells:
    """Rows of results folders, by model.

    Args:
        rows: as `lgbench.store.frame` gives them.
        left_out: what could not be read, a sentence each.
        readings: of probes.
        weights: trainings whose weights are at hand.
    """

    def __init__(
        self,
        rows: pd.DataFrame,
        left_out: Sequence[str] = (),
        readings: Iterable[Readings] = (),
        weights: Collection[str] = (),
    ) -> None:
        self.rows = rows
        self.left_out = tuple(left_out)
        self._readings = Stored(readings)
        self._weights = frozenset(weights)
        self._groups = rows.groupby(["task", "label", "backbone", "preset"]).indices
        self._known: dict[Model, list[Row]] = {}
        self._at: dict[tuple[Point, int], list[Row]] = {}

    @classmethod
    def read(cls, roots: Sequence[Path]) -> Cells:
        """All readable rows and readings of results folders.

        Raises:
            UserError: a folder does not exist.
        """
        reading = read(roots)
        unread = [f"Could not read {path}: {why}" for path, why in reading.unreadable.items()]
        weights = {path.parent.name for root in roots for path in root.glob("checkpoints/*/step-*")}
        return cls(frame(reading), unread, all_readings(roots).values(), weights)

    def seeds(self, model: Model) -> list[int]:
        """Seeds of a model that have any row, increasing."""
        return sorted({int(row["seed"]) for row in self._of(model) if not pd.isna(row["seed"])})

    def sample(self, point: Point, seeds: Sequence[int]) -> Sample:
        """The items of a point in these seeds, in their order.

        Raises:
            NotRun: a seed was not measured there.
            Unusable: a seed has no number there, or several.
        """
        rows = [self._row(point, seed) for seed in seeds]
        values = [_items(row) for row in rows]
        if len({(len(items), row["items_hash"]) for items, row in zip(values, rows, strict=True)}) > 1:
            raise Unusable(f"{point.model}: its seeds were measured on different items")
        first, chance = rows[0], float(np.mean([row["chance"] for row in rows]))
        clusters = first["item_clusters"]
        return Sample(
            values=np.stack(values),
            clusters=None if clusters is None or not np.ndim(clusters) else list(clusters),
            chance=float(np.log(chance)) if first["combine"] == "exp_mean" else chance,
            is_share=bool(first["higher_is_better"] and first["best"] == 1),
        )

    def has(self, point: Point, seed: int) -> bool:
        """Whether a seed was measured at a point, with whatever result."""
        try:
            self._row(point, seed)
        except Unusable:
            return True
        except NotRun:
            return False
        return True

    def scalars(self, reading: Reading, seeds: Sequence[int]) -> Sample:
        """What a probe read in these seeds, in their order.

        Raises:
            NotRun: the probe has not looked into a seed.
            Unusable: it gave no number in one.
        """
        look, values = reading.look, []
        for seed in seeds:
            found = self._readings.find(look, self._trainings(look.model, seed))
            if found is None:
                raise NotRun(f"probe {look.name} has not looked into {look.model}, seed {seed}")
            try:
                values.append([number(found, reading)])
            except (LookupError, ArithmeticError) as error:
                raise Unusable(f"probe {look.name}, {look.model}, seed {seed}: {error.args[0]}") from error
        return Sample(values=np.array(values), clusters=None, chance=float("nan"), is_share=False)

    def has_readings(self, look: Look, seed: int) -> bool:
        """Whether a probe has looked into a seed."""
        return self._readings.find(look, self._trainings(look.model, seed)) is not None

    def has_weights(self, model: Model, seed: int) -> bool:
        """Whether the weights of a seed are at hand."""
        return not self._weights.isdisjoint(self._trainings(model, seed))

    def cell(self, model: Model, seed: int) -> str:
        """Key of a cell of a model and seed, of one whose weights are at hand if there are any.

        Raises:
            NotRun: there is none.
        """
        mine = [row for row in self._of(model) if row["seed"] == seed]
        if not mine:
            raise NotRun(f"{model}: seed {seed} was not run")
        best = max(mine, key=lambda row: (row["training"] in self._weights, row["created_at"], row["cell"]))
        return str(best["cell"])

    def _trainings(self, model: Model, seed: int) -> set[str]:
        return {str(row["training"]) for row in self._of(model) if row["seed"] == seed}

    def _row(self, point: Point, seed: int) -> Row:
        """The newest row of a seed at a point, checked."""
        model = point.model
        mine = [row for row in self._of(model) if row["seed"] == seed]
        at = self._at.get((point, seed), [])
        if not at:
            bad = [row["fault"] for row in mine if row["status"] != "ok"]
            if bad:
                raise Unusable(f"{model}: seed {seed} cannot be used, since {bad[0]}")
            raise NotRun(f"{model}: seed {seed} was not measured at {point.at:,}")
        ambiguous = [name for name in _SAME if len({_comparable(row[name]) for row in at}) > 1]
        if ambiguous:
            raise Unusable(f"{model}: seed {seed} has cells that differ in {', '.join(ambiguous)}")
        newest = max(at, key=lambda row: (row["created_at"], row["cell"]))
        if newest["fault"]:
            raise Unusable(f"{model}: seed {seed} cannot be used, since {newest['fault']}")
        return newest

    def _of(self, model: Model) -> list[Row]:
        """Rows of a model at the end of its training, whatever their status, with a `fault` in words."""
        if model not in self._known:
            self._known[model] = self._find(model)
            for row in self._known[model]:
                at = row[_X[row["axis"]]] if row["axis"] in _X else None
                if row["metric"] == model.metric and not pd.isna(at) and not pd.isna(row["seed"]):
                    point = Point(model=model, axis=row["axis"], at=int(at))
                    self._at.setdefault((point, int(row["seed"])), []).append(row)
        return self._known[model]

    def _find(self, model: Model) -> list[Row]:
        group = self._groups.get((model.task, model.method, model.backbone, model.preset))
        if group is None:
            return []
        rows = self.rows.iloc[group]
        keep = (rows["eval_draw"].fillna(0) == 0) & (rows["protocol"] == "clean")
        keep &= rows["step"].isna() | (rows["step"] == rows["train_steps"])
        for name in SETTING:
            if (value := getattr(model, name)) is not None:
                keep &= np.isclose(rows[name].astype(float), value)
        found = rows.loc[keep, COLUMNS]
        params = zip(found["task_params"], found["recipe"], strict=True)
        found = found[np.array([_is_meant(*of_row, model) for of_row in params], dtype=bool)]
        records = found.assign(fault=_faults(found)).to_dict("records")
        return [{str(name): value for name, value in row.items()} for row in records]


def _faults(rows: pd.DataFrame) -> pd.Series:
    """Why a row may not be used, in words; empty where it may."""
    faults = rows["status"].map(lambda status: "" if status == "ok" else f"it is {status}".replace("_", " "))
    is_number = np.isfinite(rows["value"].astype(float))
    faults[(faults == "") & ~is_number] = "its value is not a number"
    measured = faults.index[faults == ""]
    faults.loc[measured] = find_faults(rows.loc[measured])
    return faults


def _is_meant(task_params: Any, recipe: Any, model: Model) -> bool:
    """Whether what is kept as JSON in a row is what a model says."""
    try:
        params, numbers = _decoded(task_params), _decoded(recipe)
    except ValueError:  # torn JSON: of no model
        return False
    if any(name in params and params[name] != value for name, value in model.task_params):
        return False
    if model.train_queries is None:
        return True
    asked = [model.train_queries] * 2
    return bool(numbers.get("train_queries", asked) == asked)


def _decoded(params: Any) -> dict[str, Any]:
    """Parameters of a row: a map to JSON, as the store keeps it, or all as JSON, as reports do."""
    return dict(json.loads(params or "{}")) if isinstance(params, str) else from_texts(params)


def _items(row: Row) -> Floats:
    items = row["item_values"]
    if items is not None and np.size(items):
        return np.asarray(items, dtype=float)
    return np.array([np.log(row["value"]) if row["combine"] == "exp_mean" else row["value"]])


def _comparable(value: Any) -> Any:
    """A column of `_SAME` as text, without what does not matter."""
    if not isinstance(value, Mapping):
        return value
    return json.dumps({name: text for name, text in sorted(value.items()) if name not in _EVALUATION})
