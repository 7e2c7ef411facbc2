"""Turn the rows of a store into curves: means over seeds and items, with intervals, one board a comparison.

A *board* holds what may be compared: one task with its parameters, one data set, one preset, one metric. A
*series* is one line on it: a method with its parameters and training setting. A *point* is a series at one
evaluation.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from lgbench.errors import UserError
from lgbench.report.scores import bootstrap_means, interval
from lgbench.store import read

BOARD = ["task", "task_params", "data_source", "data_fingerprint", "preset", "metric"]
SERIES = [
    "label",
    "method",
    "method_params",
    "backbone",
    "train_length",
    "train_low",
    "train_high",
    "train_steps",
    "d_model",
    "num_layers",
    "d_state",
    "batch_size",
    "learning_rate",
]
POINT = ["axis", "step", "eval_length", "num_queries"]


def format_length(length: float) -> str:
    """Lengths as on an axis: 512, 1K, 1.5K, 1M, with K = 1,024 and M = K². Anything uneven in full: 1,000."""
    for unit, size in (("M", 1 << 20), ("K", 1 << 10)):
        if length >= size and length * 2 % size == 0:
            return f"{length / size:g}{unit}"
    return f"{int(length):,}"


_IN_WORDS = {
    "train_length": lambda v: f"trained on {format_length(v)}",
    "train_steps": lambda v: f"{v:,} steps",
    "d_model": lambda v: f"width {v}",
    "num_layers": lambda v: f"{v} layers",
    "d_state": lambda v: f"state {v}",
    "batch_size": lambda v: f"batch {v}",
    "learning_rate": lambda v: f"lr {v:g}",
    "train_low": lambda v: f"from {format_length(v)}",
    "train_high": lambda v: f"up to {format_length(v)}",
}
"""How a setting reads in a legend, for those that may differ between series of one label."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """One comparison.

    Attributes:
        rows: measured rows of the store, one a seed and point, with `series`, the name of the line it belongs
        to.
        points: one row a series and point: the columns of `SERIES` and `POINT`, `series`, `is_final`
            (measured at the end of the training), `value`, `low`, `high`, `num_seeds`, `num_items`, `chance`,
            `best`, `references` (name → value) and `replicates` (`(NUM_RESAMPLES,)`, paired within the
            board).
    """

    task: str
    data_source: str
    preset: str
    metric: str
    higher_is_better: bool
    notice: str
    title: str
    slug: str
    rows: pd.DataFrame
    points: pd.DataFrame

    @property
    def series(self) -> list[str]:
        """Names of the lines, in the order that fixes their colours."""
        return list(dict.fromkeys(self.points["series"]))

    def curve(self, axis: str) -> pd.DataFrame:
        """Points at the end of training along one axis ("context" or "queries"), by series and length."""
        return self.points[(self.points["axis"] == axis) & self.points["is_final"]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """Everything that a report says.

    Attributes:
        boards: comparisons, by title.
        rows: all rows, measured or not.
        missing: rows that have no value (diverged, failed, …), with an `outcome` in words: listed, never
        averaged.
        warnings: what a reader must know, a sentence each.
    """

    boards: list[Board]
    rows: pd.DataFrame
    missing: pd.DataFrame
    warnings: list[str] = field(default_factory=list)


def load(roots: Sequence[Path]) -> Results:
    """Read results folders and combine seeds and items.

    Raises:
        UserError: a folder does not exist, or there is not one readable row in any of them.
    """
    reading = read(roots)
    warnings = [f"Could not read {path}: {reason}" for path, reason in reading.unreadable.items()]
    if reading.table.num_rows == 0:
        where = ", ".join(str(root) for root in roots)
        unread = f" ({len(warnings)} unreadable files, first: {warnings[0]})" if warnings else ""
        raise UserError(
            f"no results in {where}{unread}. Make some with: "
            f"lgbench run --task omniglot --method vanilla,prepended --preset smoke --results {roots[0]}"
        )
    rows = reading.table.to_pandas()
    text = [name for name in rows if reading.table.schema.field(name).type == pa.string()]
    rows[text] = rows[text].fillna("")
    measured = (rows["status"] == "ok") & np.isfinite(rows["value"].astype(float))
    rows["outcome"] = rows["status"].str.replace("_", " ")
    rows.loc[(rows["status"] == "ok") & ~measured, "outcome"] = "value is not a finite number"
    ok = _one_row_a_measurement(rows[measured], warnings)
    warnings += sorted(set(rows["notice"]) - {""})
    boards = sorted(_boards(ok, warnings), key=lambda board: board.slug)
    missing = rows[~measured].sort_values(["task", "label", "seed", "cell"], kind="stable")
    for (task, label, outcome, reason), group in missing.groupby(["task", "label", "outcome", "reason"]):
        lengths = sorted(group["eval_length"].dropna().unique())
        where = f" at {', '.join(map(format_length, lengths))} tokens" if lengths else ""
        seeds = ", ".join(str(seed) for seed in sorted(group["seed"].dropna().astype(int).unique()))
        warnings.append(f"{task}, {label}, seed {seeds}: {outcome}{where}{': ' * bool(reason)}{reason}")
    return Results(boards=boards, rows=rows, missing=missing, warnings=warnings)


def _one_row_a_measurement(rows: pd.DataFrame, warnings: list[str]) -> pd.DataFrame:
    """The newest row of each measurement; a warning where different cells claim to be the same one."""
    integers = ["seed", "eval_length", "num_queries", "step", *SERIES[4:12]]
    rows = rows.astype(dict.fromkeys(integers, "int64")).sort_values(["created_at", "cell"], kind="stable")
    groups = rows.groupby([*BOARD, *SERIES, *POINT, "seed"], dropna=False)["cell"]
    clashes = sorted(rows.loc[groups.transform("nunique") > 1, "label"].unique())
    if clashes:
        warnings.append(
            f"{', '.join(clashes)}: several cells differ in nothing shown here; the newest is taken"
        )
    return rows.drop_duplicates([*BOARD, *SERIES, *POINT, "seed"], keep="last")


def _boards(rows: pd.DataFrame, warnings: list[str]) -> Iterable[Board]:
    titles = _titles(rows[BOARD].drop_duplicates())
    for key, group in rows.groupby(BOARD, dropna=False, sort=True):
        group = _named(group)
        title = titles[key]
        points = _points(group)
        unfinished = points[points["is_final"] & (points["step"] < points["train_steps"])]
        for series, step in unfinished[["series", "step"]].drop_duplicates().itertuples(index=False):
            warnings.append(
                f"{title}, {series}: measured after {step:,} steps, before the end of the training"
            )
        if group["items_hash"].groupby([group["axis"], group["eval_length"]]).nunique().max() > 1:
            warnings.append(f"{title}: not all runs were evaluated on the same items")
        yield Board(
            **{name: str(value) for name, value in zip(BOARD, key, strict=True) if name in Board.__slots__},
            higher_is_better=bool(group["higher_is_better"].iloc[0]),
            notice=" ".join(sorted(set(group["notice"]) - {""})),
            title=title,
            slug=re.sub(r"[^a-z0-9]+", "-", f"{title} {key[-1]}".lower()).strip("-"),
            rows=group,
            points=points,
        )


def _titles(keys: pd.DataFrame) -> dict[tuple, str]:
    """Task, data and preset; parameters of the task and the data's hash only where they tell boards apart."""
    titles = {}
    for key, alike in keys.groupby(["task", "data_source", "preset", "metric"], dropna=False):
        task, source, preset, _ = key
        params = [json.loads(text or "{}") for text in alike["task_params"]]
        for row, mine in zip(alike.itertuples(index=False), params, strict=True):
            differing = [f"{n}={mine[n]}" for n in sorted(mine) if any(p.get(n) != mine[n] for p in params)]
            shown = f"{task}[{','.join(differing)}]" if differing else str(task)
            version = (
                f", version {row.data_fingerprint[:8]}" if alike["data_fingerprint"].nunique() > 1 else ""
            )
            titles[tuple(row)] = f"{shown}, data: {source}{version}, preset {preset}"
    return titles


def _named(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of one board with `series`: the label and whatever tells series of one label apart."""
    keys = rows[SERIES].drop_duplicates().sort_values(SERIES, kind="stable")
    names = {}
    for label, alike in keys.groupby("label"):
        varying = [name for name in _IN_WORDS if alike[name].nunique() > 1]
        if "train_length" in varying:
            varying = [name for name in varying if name not in ("train_low", "train_high")]
        for row in alike.itertuples(index=False):
            words = [_IN_WORDS[name](getattr(row, name)) for name in varying]
            name = f"{label} ({', '.join(words)})" if words else str(label)
            taken = sum(known == name or known.startswith(f"{name} #") for known in names.values())
            names[tuple(row)] = f"{name} #{taken + 1}" if taken else name
    return rows.assign(series=[names[key] for key in rows[SERIES].itertuples(index=False, name=None)])


def _points(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean over seeds of the mean over items at each point, with its bootstrap interval and replicates."""
    points = []
    for key, series in rows.groupby(["series", *SERIES], dropna=False, sort=False):
        shared = dict(zip(["series", *SERIES], key, strict=True))
        seeds = sorted(series["seed"].unique())
        for where, group in series.groupby(POINT, dropna=False):
            items = {
                row.seed: (_items(row), str(row.items_hash)) for row in group.sort_values("seed").itertuples()
            }
            replicates = bootstrap_means(items, seeds)
            low, high = interval(replicates)
            points.append(
                shared
                | dict(zip(POINT, where, strict=True))
                | {
                    "is_final": where[1] == series["step"].max(),
                    "value": float(np.mean([values.mean() for values, _ in items.values()])),
                    "low": low,
                    "high": high,
                    "num_seeds": len(items),
                    "num_items": max(len(values) for values, _ in items.values()),
                    "chance": group["chance"].mean(),
                    "best": group["best"].mean(),
                    "references": json.loads(group["references"].iloc[0] or "{}"),
                    "replicates": replicates,
                }
            )
    return pd.DataFrame(points).sort_values([*SERIES, *POINT], kind="stable", ignore_index=True)


def _items(row: tuple) -> np.ndarray:
    """Values of the items, float64; the mean alone where a row keeps no items."""
    kept = row.item_values is not None and len(row.item_values) > 0
    return np.asarray(row.item_values if kept else [row.value], dtype=float)
