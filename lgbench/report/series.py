"""Turn the rows of one comparison into lines: name them, and average over seeds and items.

A *series* is one line of a figure: a method with its parameters and training setting. A *point* is a series
at one evaluation.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from lgbench.intervals import wilson_interval
from lgbench.report.scores import Floats, bootstrap_means, combined, interval
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
    "lm_weight",
    "learning_rate",
]
"""Columns that tell series apart, in the order in which they are sorted."""
POINT = ["axis", "step", "eval_length", "num_queries"]
"""Columns that tell the points of a series apart."""


_IN_WORDS = {
    "backbone": lambda name: name,
    "train_length": lambda length: f"trained on {length}",
    "train_low": lambda length: f"from {length}",
    "train_high": lambda length: f"up to {length}",
    "train_steps": lambda steps: f"{steps:,} steps",
    "d_model": lambda width: f"width {width}",
    "num_layers": lambda layers: f"{layers} layers",
    "d_state": lambda size: f"state {size}",
    "batch_size": lambda size: f"batch {size}",
    "lm_weight": lambda weight: f"LM weight {weight:g}",
    "learning_rate": lambda rate: f"lr {rate:g}",
}
"""How a setting reads in a legend."""
TRAIN_LENGTHS = ("train_length", "train_low", "train_high")
TRAIN_NUMBERS = ("train_steps", "batch_size", "lm_weight", "learning_rate")
"""What a training may have to change with its length."""


def name_series(rows: pd.DataFrame) -> dict[tuple, str]:
    """Values of `SERIES` → the label, with the settings that tell series of one label apart.

    A weight of the language-model loss that is not the commonest is named in any case: methods with different
    ones were trained for different things.
    """
    keys = rows[SERIES].drop_duplicates().sort_values(SERIES, kind="stable")
    unit, usual = rows["length_unit"].iloc[0], keys["lm_weight"].mode().iloc[0]
    names: dict[tuple, str] = {}
    for label, alike in keys.groupby("label"):
        varying = [name for name in _IN_WORDS if alike[name].nunique() > 1]
        if "train_length" in varying:
            varying = [name for name in varying if name not in ("train_low", "train_high")]
        shown = alike.assign(
            **{name: [format_length(n, unit) for n in alike[name]] for name in TRAIN_LENGTHS}
        )
        for row, told in zip(alike.itertuples(index=False), shown.itertuples(index=False), strict=True):
            unusual = ["lm_weight"] if told.lm_weight != usual and "lm_weight" not in varying else []
            words = ", ".join(_IN_WORDS[name](getattr(told, name)) for name in [*varying, *unusual])
            name = f"{label} ({words})" if words else str(label)
            taken = sum(known == name or known.startswith(f"{name} #") for known in names.values())
            names[tuple(row)] = f"{name} #{taken + 1}" if taken else name
    return names


def average(rows: pd.DataFrame) -> pd.DataFrame:
    """One row a series and point, from one row a series, point and seed.

    Args:
        rows: measured rows of one metric with `series`, the name from `name_series`.

    Returns:
        the columns of `SERIES` and `POINT`, `series`, `is_final` (measured at the last step of the series),
        `value`, `low`, `high` and `replicates` as in `summarise`, `num_seeds`, `num_items`, `chance`, `best`
        and `references` (name → value).
    """
    combine, binary = rows["combine"].iloc[0], are_binary(rows)
    points = []
    for key, series in rows.groupby(["series", *SERIES], sort=False):
        setting = dict(zip(["series", *SERIES], key, strict=True))
        seeds = sorted(series["seed"].unique())
        last = series["step"].max()
        for where, group in series.groupby(POINT):
            point = dict(zip(POINT, where, strict=True)) | {"is_final": where[1] == last}
            items = {
                row.seed: (values_of(row), row.items_hash) for row in group.sort_values("seed").itertuples()
            }
            points.append(
                setting
                | point
                | summarise(items, seeds, combine, binary)
                | {
                    "num_seeds": len(items),
                    "num_items": max(len(values) for values, _ in items.values()),
                    "chance": group["chance"].mean(),
                    "best": group["best"].mean(),
                    "references": group["references"].iloc[0] or {},
                }
            )
    return pd.DataFrame(points).sort_values([*SERIES, *POINT], kind="stable", ignore_index=True)


def summarise(
    items: dict[int, tuple[Floats, str]], seeds: list[int], combine: str, binary: bool
) -> dict[str, float | Floats]:
    """One number, and how sure it is, from the items of some seeds.

    Args:
        items: seed → (values of its items, hash of these items).
        seeds: all seeds of the series; see `bootstrap_means`.
        combine: how the values of a seed's items become one, see `combined`.
        binary: whether values are 0 or 1. Resampling ten right answers gives ten right answers, so an
            interval of such values is at least Wilson's of all items of all seeds pooled.

    Returns:
        `value` (mean over seeds of the combined items), `low` and `high` (95 %), and `replicates`
        (`(NUM_RESAMPLES,)`, paired wherever items are).
    """
    replicates = bootstrap_means(items, seeds, combine)
    low, high = interval(replicates)
    if binary:
        least, most = wilson_interval(np.concatenate([values for values, _ in items.values()]))
        low, high = min(low, least), max(high, most)
    value = float(np.mean([combined(values.mean(), combine) for values, _ in items.values()]))
    return {"value": value, "low": low, "high": high, "replicates": replicates}


def are_binary(rows: pd.DataFrame) -> bool:
    """Whether the metric of these rows is a share: every item of every row is either right or wrong."""
    if rows["combine"].iloc[0] != "mean":
        return False
    return all(np.isin(values_of(row), (0.0, 1.0)).all() for row in rows.itertuples())


def values_of(row: tuple) -> Floats:
    """Values of the items of a row, float64; that of all of them where it keeps no items."""
    kept = row.item_values is not None and len(row.item_values) > 0
    value = np.log(row.value) if row.combine == "exp_mean" else row.value
    return np.asarray(row.item_values if kept else [value], dtype=float)
