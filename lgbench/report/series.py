"""Turn the rows of one comparison into lines: name them, and average over seeds and items.

A *series* is one line of a figure: a method with its parameters and training setting. A *point* is a series
at one evaluation.
"""

from __future__ import annotations

import json

import numpy as np
import pandas as pd

from lgbench.report.scores import bootstrap_means, interval
from lgbench.report.wording import format_length

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
"""Columns that tell series apart, in the order in which they are sorted."""
POINT = ["axis", "step", "eval_length", "num_queries"]
"""Columns that tell the points of a series apart."""


_IN_WORDS = {
    "train_length": lambda length: f"trained on {format_length(length)}",
    "train_low": lambda length: f"from {format_length(length)}",
    "train_high": lambda length: f"up to {format_length(length)}",
    "train_steps": lambda steps: f"{steps:,} steps",
    "d_model": lambda width: f"width {width}",
    "num_layers": lambda layers: f"{layers} layers",
    "d_state": lambda size: f"state {size}",
    "batch_size": lambda size: f"batch {size}",
    "learning_rate": lambda rate: f"lr {rate:g}",
}
"""How a setting reads in a legend."""


def name_series(rows: pd.DataFrame) -> dict[tuple, str]:
    """Values of `SERIES` → the label, with the settings that tell series of one label apart."""
    keys = rows[SERIES].drop_duplicates().sort_values(SERIES, kind="stable")
    names: dict[tuple, str] = {}
    for label, alike in keys.groupby("label"):
        varying = [name for name in _IN_WORDS if alike[name].nunique() > 1]
        if "train_length" in varying:
            varying = [name for name in varying if name not in ("train_low", "train_high")]
        for row in alike.itertuples(index=False):
            words = ", ".join(_IN_WORDS[name](getattr(row, name)) for name in varying)
            name = f"{label} ({words})" if words else str(label)
            taken = sum(known == name or known.startswith(f"{name} #") for known in names.values())
            names[tuple(row)] = f"{name} #{taken + 1}" if taken else name
    return names


def average(rows: pd.DataFrame) -> pd.DataFrame:
    """One row a series and point, from one row a series, point and seed.

    Args:
        rows: measured rows with `series`, the name from `name_series`.

    Returns:
        the columns of `SERIES` and `POINT`, `series`, `is_final` (measured at the last step of the series),
        `value` (mean over seeds of the mean over items), `low`, `high`, `num_seeds`, `num_items`, `chance`,
        `best`, `references` (name → value) and `replicates` (`(NUM_RESAMPLES,)`, paired between all points).
    """
    points = []
    for key, series in rows.groupby(["series", *SERIES], sort=False):
        setting = dict(zip(["series", *SERIES], key, strict=True))
        seeds = sorted(series["seed"].unique())
        last = series["step"].max()
        for where, group in series.groupby(POINT):
            point = dict(zip(POINT, where, strict=True))
            points.append(setting | point | {"is_final": point["step"] == last} | _mean(group, seeds))
    return pd.DataFrame(points).sort_values([*SERIES, *POINT], kind="stable", ignore_index=True)


def _mean(group: pd.DataFrame, seeds: list[int]) -> dict:
    """A point from its rows, one a seed."""
    items = {row.seed: (_items(row), row.items_hash) for row in group.sort_values("seed").itertuples()}
    replicates = bootstrap_means(items, seeds)
    low, high = interval(replicates)
    return {
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


def _items(row: tuple) -> np.ndarray:
    """Values of the items, float64; the mean alone where a row keeps no items."""
    kept = row.item_values is not None and len(row.item_values) > 0
    return np.asarray(row.item_values if kept else [row.value], dtype=float)
