"""Turn the rows of one comparison into lines: name them, and average over seeds and items.

A *series* is one line of a figure: a method with its parameters and training setting. A *point* is a series
at one evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from lgbench.recipe import columns
from lgbench.report.wording import format_length
from lgbench.stats.intervals import mean_interval
from lgbench.stats.scores import Floats

_OF_RECIPE = {name: said for name, said in columns().items() if said.words}
"""Columns of the recipe's fields that tell series apart."""
SERIES = ["label", "method", "method_params", "backbone", "train_length", "train_low", "train_high"]
SERIES += ["d_state", *(name for name in _OF_RECIPE if name != "train_length")]
"""Columns that tell series apart, in the order in which they are sorted."""
POINT = ["axis", "step", "eval_length", "num_queries"]
"""Columns that tell the points of a series apart."""
_WORDS = {"backbone": "{}", "train_length": "", "train_low": "from {}", "train_high": "up to {}"}
_WORDS |= {name: said.words for name, said in _OF_RECIPE.items()}
_WORDS |= {"d_state": "state {}"}
"""How a setting reads in a legend."""
TRAIN_LENGTHS = ("train_length", "train_low", "train_high")
TRAIN_NUMBERS = tuple(n for n, said in _OF_RECIPE.items() if said.group == "training" and n != "train_length")
"""What a training may have to change with its length."""


def name_series(rows: pd.DataFrame) -> dict[tuple, str]:
    """Values of `SERIES` → the label, with the settings that tell series of one label apart.

    A weight of the language-model loss that is not the commonest is named in any case: methods with different
    ones were trained for different things.
    """
    keys = rows[SERIES].drop_duplicates().sort_values(SERIES, kind="stable")
    unit, usual = rows["length_unit"].iloc[0], keys["lm_weight"].mode().iloc[0]
    by_label: dict[str, list[dict]] = {}
    for setting in keys.to_dict("records"):
        by_label.setdefault(str(setting["label"]), []).append(setting)
    names: dict[tuple, str] = {}
    taken: dict[str, int] = {}
    for label in sorted(by_label):
        alike = by_label[label]
        varying = [name for name in _WORDS if len({setting[name] for setting in alike}) > 1]
        for quiet in (name for name in varying[::-1] if name in _OF_RECIPE and _OF_RECIPE[name].quiet):
            others = [name for name in varying if name != quiet]
            if len({tuple(setting[name] for name in others) for setting in alike}) == len(alike):
                varying = others
        if "train_length" in varying:
            varying = [name for name in varying if name not in ("train_low", "train_high")]
        for setting in alike:
            shown = setting | {name: format_length(setting[name], unit) for name in TRAIN_LENGTHS}
            unusual = ["lm_weight"] if setting["lm_weight"] != usual and "lm_weight" not in varying else []
            words = ", ".join(_WORDS[name].format(shown[name]) for name in [*varying, *unusual])
            name = f"{label} ({words})" if words else label
            taken[name] = taken.get(name, 0) + 1
            names[tuple(setting.values())] = f"{name} #{taken[name]}" if taken[name] > 1 else name
    return names


def average(rows: pd.DataFrame) -> pd.DataFrame:
    """One row a series and point, from one row a series, point and seed.

    Args:
        rows: measured rows of one metric with `series`, the name from `name_series`.

    Returns:
        the columns of `SERIES` and `POINT`, `series`, `is_final` (measured at the last step of the series),
        `value`, `low` and `high` as in `summarise`, `num_seeds`, `num_items`, `chance`, `best` and
        `references` (name → value).
    """
    combine, binary = rows["combine"].iloc[0], are_binary(rows)
    points = []
    for key, series in rows.groupby(["series", *SERIES], sort=False):
        setting = dict(zip(["series", *SERIES], key, strict=True))
        last = series["step"].max()
        for where, group in series.groupby(POINT):
            point = dict(zip(POINT, where, strict=True)) | {"is_final": where[1] == last}
            items = [values_of(row) for row in group.sort_values("seed").itertuples()]
            points.append(
                setting
                | point
                | summarise(items, _clusters(group), combine, binary)
                | {
                    "num_seeds": len(items),
                    "num_items": max(map(len, items)),
                    "chance": group["chance"].mean(),
                    "best": group["best"].mean(),
                    "references": group["references"].iloc[0] or {},
                }
            )
    return pd.DataFrame(points).sort_values([*SERIES, *POINT], kind="stable", ignore_index=True)


def summarise(items: list[Floats], clusters: Sequence | None, combine: str, binary: bool) -> dict[str, float]:
    """One number, and how sure it is, from the items of some seeds.

    Args:
        items: for each seed the values of its items; of "exp_mean" their logarithms.
        clusters: of the items, see `lgbench.stats.intervals.by_cluster`.
        combine: how the values of a seed's items become one: "mean", or "exp_mean", the exponential of it.
        binary: whether values are 0 or 1, see `mean_interval`.

    Returns:
        `value` (mean over seeds of the combined items), `low` and `high` (95 %, over seeds and items; of a
        single seed over items alone). Seeds with different numbers of items are cut to the fewest for the
        interval.
    """
    means = np.array([values.mean() for values in items])
    fewest = min(map(len, items))
    table = np.stack([values[:fewest] for values in items])
    if clusters is not None and len(clusters) != fewest:
        clusters = None
    if combine != "exp_mean":
        low, high = mean_interval(table, clusters, binary)
        return {"value": float(means.mean()), "low": low, "high": high}
    whole = np.exp(means)
    value = float(whole.mean())
    relative = whole[:, None] * (1 + table - means[:, None]) / value
    half = np.diff(mean_interval(relative, clusters))[0] / 2
    return {"value": value, "low": value * float(np.exp(-half)), "high": value * float(np.exp(half))}


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


def _clusters(rows: pd.DataFrame) -> Sequence | None:
    """Of the items of a point, from its first row."""
    found = rows["item_clusters"].iloc[0]
    return found if np.ndim(found) and len(found) else None
