"""Turn the rows of one comparison into lines: name them, and average over seeds and items.

A *series* is one line of a figure: a method with its parameters and training setting. A *point* is a series
at one evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray

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
_AT_ONCE = 2_000_000
"""Values of items that are looked at together, so that memory does not grow with the store."""
TRAIN_LENGTHS = ("train_length", "train_low", "train_high")
TRAIN_NUMBERS = tuple(n for n, said in _OF_RECIPE.items() if said.group == "training" and n != "train_length")
"""What a training may have to change with its length."""


def name_series(rows: pd.DataFrame) -> dict[tuple, str]:
    """Values of `SERIES` → the label, with the settings that tell series of one label apart.

    A weight of the language-model loss that is not the commonest is named in any case: methods with different
    ones were trained for different things. A backbone without a state size has none in its name.
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
            said = [name for name in [*varying, *unusual] if not (name == "d_state" and not setting[name])]
            words = ", ".join(_WORDS[name].format(shown[name]) for name in said)
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
    key, binary = ["series", *SERIES, *POINT], are_binary(rows)
    rows = rows.assign(point=rows.groupby(key, sort=False).ngroup()).sort_values(
        ["point", "seed"], kind="stable"
    )
    points = rows.drop_duplicates("point").set_index("point")[[*key, "references"]]
    points["references"] = points["references"].map(lambda found: found or {})
    points["is_final"] = points["step"] == points.groupby("series")["step"].transform("max")
    by_point = rows.groupby("point")
    points[["chance", "best"]] = by_point[["chance", "best"]].mean()
    points["num_seeds"] = by_point.size()
    found = _summaries(rows, rows["combine"].iloc[0], binary)
    return points.join(found).sort_values([*SERIES, *POINT], kind="stable", ignore_index=True)


def _summaries(rows: pd.DataFrame, combine: str, binary: bool) -> pd.DataFrame:
    """`summarise` of each point, and `num_items`; points of one shape at a time.

    Args:
        rows: sorted by `point`, a number, and seed.
    """
    items, clusters = items_of(rows), list(rows["item_clusters"])
    starts = np.append(np.flatnonzero(np.diff(rows["point"], prepend=-1)), len(rows))
    names = rows["point"].to_numpy()[starts[:-1]]
    shapes: dict[tuple, list[int]] = {}
    for at, (start, stop) in enumerate(pairwise(starts)):
        sizes = tuple(map(len, items[start:stop]))
        same = sizes[0] if len(set(sizes)) == 1 else sizes
        shapes.setdefault((stop - start, same, id(clusters[start])), []).append(at)
    parts = []
    for (num_seeds, same, _), members in shapes.items():
        size = max(1, _AT_ONCE // (num_seeds * np.max(same)))
        for first in range(0, len(members), size):
            chosen = members[first : first + size]
            groups = [items[starts[at] : starts[at + 1]] for at in chosen]
            summary = summarise(groups, _known(clusters[starts[chosen[0]]]), combine, binary)
            parts.append(pd.DataFrame(summary, index=names[chosen]).assign(num_items=int(np.max(same))))
    return pd.concat(parts)


def summarise(
    groups: Sequence[Sequence[Floats]], clusters: Sequence | None, combine: str, binary: bool
) -> dict[str, Floats]:
    """One number, and how sure it is, from the items of some seeds, for points of one shape.

    Args:
        groups: for each point and seed the values of its items; of "exp_mean" their logarithms.
        clusters: of the items, see `lgbench.stats.intervals.by_cluster`.
        combine: how the values of a seed's items become one: "mean", or "exp_mean", the exponential of it.
        binary: whether values are 0 or 1, see `mean_interval`.

    Returns:
        `value` (mean over seeds of the combined items), `low` and `high` (95 %, over seeds and items; of a
        single seed over items alone), each `(num_points,)`. Seeds with different numbers of items are cut to
        the fewest for the interval.
    """
    sizes = {len(values) for values in groups[0]}
    fewest = min(sizes)
    table = np.array([[values[:fewest] for values in items] for items in groups], dtype=float)
    means = table.mean(axis=2)
    if len(sizes) > 1:
        means = np.array([[values.mean(dtype=float) for values in items] for items in groups])
    if clusters is not None and len(clusters) != fewest:
        clusters = None
    if combine != "exp_mean":
        low, high = mean_interval(table, clusters, binary)
        return {"value": means.mean(axis=1), "low": low, "high": high}
    whole = np.exp(means)
    value = whole.mean(axis=1)
    relative = whole[:, :, None] * (1 + table - means[:, :, None]) / value[:, None, None]
    low, high = mean_interval(relative, clusters)
    half = (high - low) / 2
    return {"value": value, "low": value * np.exp(-half), "high": value * np.exp(half)}


def are_binary(rows: pd.DataFrame) -> bool:
    """Whether the metric of these rows is a share: every item of every row is either right or wrong."""
    if rows["combine"].iloc[0] != "mean":
        return False
    return all(((values == 0) | (values == 1)).all() for values in items_of(rows))


def items_of(rows: pd.DataFrame) -> list[NDArray]:
    """Values of the items of each row; that of all of them where it keeps no items."""
    mean = rows["value"].to_numpy(float)
    if rows["combine"].iloc[0] == "exp_mean":
        mean = np.log(mean)
    return [
        np.asarray(items) if items is not None and len(items) else np.array([one])
        for items, one in zip(rows["item_values"], mean, strict=True)
    ]


def _known(clusters: Sequence | None) -> Sequence | None:
    return clusters if np.ndim(clusters) and len(clusters) else None
