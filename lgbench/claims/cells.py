"""Look up the measurements that claims read, in the rows of results folders and nowhere else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lgbench.claims.model import SETTING, Model
from lgbench.stats.rows import find_faults
from lgbench.stats.scores import Floats
from lgbench.store import frame, read

_SAME = ("recipe", "task_params", "backbone_params", "data_fingerprint")
"""Two cells of one model and seed may differ in the code that made them, in these columns they may not."""
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
    """

    values: Floats
    clusters: Sequence[str] | None
    chance: float


class Cells:
    """Rows of results folders, by model.

    Args:
        rows: as `lgbench.store.frame` gives them.
    """

    def __init__(self, rows: pd.DataFrame) -> None:
        self.rows = rows
        self._found: dict[Model, pd.DataFrame] = {}

    @classmethod
    def read(cls, roots: Sequence[Path]) -> Cells:
        """All readable rows of results folders.

        Raises:
            UserError: a folder does not exist.
        """
        return cls(frame(read(roots)))

    def of(self, model: Model) -> pd.DataFrame:
        """Rows of a model at the end of its training, whatever their status."""
        if model not in self._found:
            rows = self.rows
            keep = (rows["task"] == model.task) & (rows["label"] == model.method)
            keep &= (rows["backbone"] == model.backbone) & (rows["preset"] == model.preset)
            keep &= (rows["eval_draw"].fillna(0) == 0) & (rows["protocol"] == "clean")
            for name in SETTING:
                if (value := getattr(model, name)) is not None:
                    keep &= np.isclose(rows[name].astype(float), value)
            found = rows[keep & (rows["step"].isna() | (rows["step"] == rows["train_steps"]))]
            self._found[model] = found[
                np.array([_is_meant(row, model) for row in found.to_dict("records")], dtype=bool)
            ]
        return self._found[model]

    def seeds(self, model: Model) -> list[int]:
        """Seeds of a model that have any row, increasing."""
        return sorted(int(seed) for seed in self.of(model)["seed"].dropna().unique())

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
        chance = float(np.mean([row["chance"] for row in rows]))
        clusters = rows[0]["item_clusters"]
        return Sample(
            values=np.stack(values),
            clusters=None if clusters is None or not np.ndim(clusters) else list(clusters),
            chance=float(np.log(chance)) if rows[0]["combine"] == "exp_mean" else chance,
        )

    def _row(self, point: Point, seed: int) -> Mapping[str, Any]:
        mine = self.of(point.model)
        mine = mine[mine["seed"] == seed]
        name = "num_queries" if point.axis == "queries" else "eval_length"
        at = mine[
            (mine["axis"] == point.axis) & (mine[name] == point.at) & (mine["metric"] == point.model.metric)
        ]
        if at.empty:
            bad = mine[mine["status"] != "ok"]
            if not bad.empty:
                raise Unusable(f"{point.model}: seed {seed} is {bad['status'].iloc[0].replace('_', ' ')}")
            raise NotRun(f"{point.model}: seed {seed} was not measured at {point.at:,}")
        ambiguous = [name for name in _SAME if at[name].map(_comparable).nunique() > 1]
        if ambiguous:
            raise Unusable(f"{point.model}: seed {seed} has cells that differ in {', '.join(ambiguous)}")
        row = at.sort_values(["created_at", "cell"], kind="stable").iloc[[-1]]
        if row["status"].iloc[0] != "ok":
            raise Unusable(f"{point.model}: seed {seed} is {row['status'].iloc[0].replace('_', ' ')}")
        fault = (
            "its value is not a number" if not np.isfinite(row["value"].iloc[0]) else find_faults(row).iloc[0]
        )
        if fault:
            raise Unusable(f"{point.model}: seed {seed} cannot be used, since {fault}")
        return row.iloc[0].to_dict()


def _is_meant(row: Mapping[str, Any], model: Model) -> bool:
    """Whether what is kept as JSON in a row is what a model says."""
    params = row["task_params"] or {}
    if any(name in params and json.loads(params[name]) != value for name, value in model.task_params):
        return False
    if model.train_queries is None:
        return True
    queries = (row["recipe"] or {}).get("train_queries")
    return queries is None or json.loads(queries) == [model.train_queries] * 2


def _items(row: Mapping[str, Any]) -> Floats:
    items = row["item_values"]
    if items is not None and np.size(items):
        return np.asarray(items, dtype=float)
    return np.array([np.log(row["value"]) if row["combine"] == "exp_mean" else row["value"]])


def _comparable(value: Any) -> Any:
    """A column of `_SAME` as text, without what does not matter."""
    if not isinstance(value, Mapping):
        return value
    return json.dumps({name: text for name, text in sorted(value.items()) if name not in _EVALUATION})
