"""Check rows before anything is concluded from them, and fill in what rows of older schemas do not have.

This is the one place that knows what a column is taken to be where it is missing or null:

    horizon         HORIZON        last length of the long score, as a multiple of L_train
    learned         LEARNED        score at L_train from which on something counts as learned
    context_means   CONTEXT_MEANS  what more context means: denser, longer, or more candidates
    item_clusters   null           items are independent
    of the recipe   its default    what was done before there was the field; 0 or "" where it has none

The first three are the defaults of `lgbench.task.Task`. A migration writes what a published task says.
"""

from __future__ import annotations

from dataclasses import MISSING
from typing import Any

import numpy as np
import pandas as pd

from lgbench.recipe import Recipe, column_value, columns, described

HORIZON = 32.0
LEARNED = 0.25
CONTEXT_MEANS = "longer"
DEFAULTS: dict[str, Any] = {"horizon": HORIZON, "learned": LEARNED, "context_means": CONTEXT_MEANS}
DEFAULTS |= {
    name: "" if said.column == "string" else 0 for name, said in columns().items()
} | {field.name: column_value(field.default) for field, said in described(Recipe)
     if said.column and field.default is not MISSING}  # fmt: skip
_WITH_DEFAULT = {field.name for field, _ in described(Recipe) if field.default is not MISSING}
INTEGERS = ["seed", "eval_length", "num_queries", "step", "train_low", "train_high", "d_state"]
INTEGERS += [name for name, said in columns().items() if said.column.startswith("int")]
"""Columns of whole numbers that every measurement has, once what is missing is filled in."""
REQUIRED = [name for name in INTEGERS if name not in _WITH_DEFAULT]
REQUIRED += ["lm_weight", "learning_rate", "higher_is_better"]
"""Columns that nothing stands for where they are missing."""
AXES = ("context", "queries", "position")
_TOLERANCE = 1e-6
"""By which a metric may pass its best value through rounding, relative to best − chance."""
_AT_ONCE = 10_000
"""Rows whose items are looked at together, so that memory does not grow with the store."""


def fill_task_facts(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with the columns above, none of them null but `item_clusters`."""
    filled = rows.assign(**{name: rows.get(name, default) for name, default in DEFAULTS.items()})
    filled = filled.fillna(DEFAULTS)
    empty = filled["context_means"] == ""
    filled.loc[empty, "context_means"] = CONTEXT_MEANS
    return filled if "item_clusters" in rows else filled.assign(item_clusters=None)


def find_faults(rows: pd.DataFrame) -> pd.Series:
    """What keeps a measured row out of every comparison, in words; empty where nothing does.

    Args:
        rows: rows with status ok and a finite value.
    """
    fault = pd.Series("", index=rows.index, dtype=object)

    def mark(bad: pd.Series, why: str) -> None:
        fault[bad & (fault == "")] = why

    value, best, chance = (rows[name].astype(float) for name in ("value", "best", "chance"))
    reach = np.where(rows["axis"] == "queries", rows["num_queries"], rows["eval_length"]).astype(float)
    mark(~rows["axis"].isin(AXES), f"its axis is none of {', '.join(AXES)}")
    mark(rows["seed"].isna(), "it has no seed")
    mark(~(rows["train_length"].astype(float) > 0), "its train_length is not above 0")
    mark(~(pd.Series(reach, rows.index) > 0), "its length is not above 0")
    for name in REQUIRED:
        mark(rows[name].isna(), f"it has no {name}")
    horizon, learned = (_known(rows, name) for name in ("horizon", "learned"))
    mark(~((horizon >= 1) & np.isfinite(horizon)), "its horizon is not a number from 1 on")
    mark(~np.isfinite(learned), "its threshold for having learned is not a number")
    mark(~np.isfinite(best), "its best value is not a number")
    mark(~np.isfinite(chance), "its chance is not a number")
    mark(chance == best, "chance equals the best value")
    mark((best > chance) != rows["higher_is_better"].astype(bool), "chance is better than the best value")
    beyond = np.where(rows["higher_is_better"].astype(bool), value - best, best - value)
    mark(pd.Series(beyond, rows.index) > _TOLERANCE * (best - chance).abs(), "its value is above the best")
    positive = (value > 0) & (chance > 0) & (best > 0)
    mark((rows["combine"] == "exp_mean") & ~positive, "an exponential of a mean is not above 0")
    mark(_has_bad_items(rows["item_values"]), "an item has no finite value")
    return fault


def _known(rows: pd.DataFrame, name: str) -> pd.Series:
    """A column of numbers, with the default where it is missing or null."""
    return (
        rows[name].astype(float).fillna(DEFAULTS[name])
        if name in rows
        else pd.Series(DEFAULTS[name], rows.index)
    )


def describe_faults(rows: pd.DataFrame, faults: pd.Series) -> list[str]:
    """One sentence for each cell and fault."""
    bad = rows.assign(fault=faults)[faults != ""]
    counts = bad.groupby(["task", "label", "cell", "fault"], dropna=False).size()
    return [
        f"{task}, {label}, cell {cell}: {count} row{'s' * (count > 1)} left out, since {fault}"
        for (task, label, cell, fault), count in counts.items()
    ]


def _has_bad_items(values: pd.Series) -> pd.Series:
    """Whether a list of items holds a number that is not finite; a row may keep no items at all."""
    bad = np.zeros(len(values), bool)
    for start in range(0, len(values), _AT_ONCE):
        part = values.iloc[start : start + _AT_ONCE]
        sizes = part.map(lambda items: 0 if items is None else len(items)).to_numpy()
        if sizes.any():
            flat = np.concatenate([items for items, size in zip(part, sizes, strict=True) if size])
            starts = np.cumsum([0, *sizes[sizes > 0][:-1]])
            bad[start + np.flatnonzero(sizes)] = ~np.isfinite(np.add.reduceat(flat, starts, dtype=float))
    return pd.Series(bad, values.index)
