"""Choose the rows of one measurement, one a seed, by keywords; what fits several is an error."""

from __future__ import annotations

import json
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import pandas as pd

from lgbench.errors import UserError
from lgbench.plan.text import read_plugins, write_value
from lgbench.report.series import POINT, SERIES

SHORT = {"length": "eval_length", "method": "label"}
"""Keywords that are no columns: the length of an evaluation, and a method with its parameters."""
APART = ["task_params", *dict.fromkeys([*SERIES, *POINT]), "metric", "eval_draw", "data_source", "preset"]
"""Columns in which rows of one measurement agree."""
_MAPS = ("task_params", "method_params")


def select(rows: pd.DataFrame, chosen: Mapping[str, Any], may_be_empty: bool = False) -> pd.DataFrame:
    """Return the rows of one measurement, ordered by seed.

    Args:
        rows: measured rows, as `lgbench.rows` gives them.
        chosen: keyword → value. `task`, with parameters in brackets if any; `method`, as its label in the
            report says it, `clock_law[decay=all]`; `length`; or any column. `seed` may be a list. Without
            `axis` it is "context"; without `step` the last one; without `eval_draw` the first.
        may_be_empty: whether no rows are an answer.

    Raises:
        UserError: an unknown keyword, no such rows, or rows of several measurements.
    """
    asked = {SHORT.get(key, key): value for key, value in chosen.items()}
    found = rows
    for key, value in ({"axis": "context", "eval_draw": 0} | asked).items():
        if key not in rows:
            close = get_close_matches(key, [*rows.columns, *SHORT], 1)
            raise UserError(f"no column '{key}'" + (f"; did you mean '{close[0]}'?" if close else ""))
        before, found = found, _where(found, key, value)
        if found.empty and may_be_empty:
            return found
        if found.empty:
            known = before["task"] if key == "task" else before[key]
            words = ", ".join(sorted({str(one) for one in known})[:20])
            raise UserError(f"{_words(chosen)}: no rows with {key}={value!r}; there are {words or 'none'}")
    if "step" not in asked:
        found = found[found["step"] == found["train_steps"]]
    _check_single(found, chosen)
    return found.sort_values("seed")


def _where(rows: pd.DataFrame, key: str, value: Any) -> pd.DataFrame:
    if key == "task":
        ((name, params),) = read_plugins(value)
        rows = rows[rows["task"] == name]
        for parameter, wanted in params.items():
            text = json.dumps(wanted)
            rows = rows[[each.get(parameter) == text for each in rows["task_params"]]]
        return rows
    return rows[rows[key].isin(value if isinstance(value, list | tuple) else [value])]


def _check_single(rows: pd.DataFrame, chosen: Mapping[str, Any]) -> None:
    """Raise a UserError that names what differs, unless these are the seeds of one measurement."""
    if rows.empty:
        raise UserError(f"{_words(chosen)}: no rows of the last step")
    for column in APART:
        texts = rows[column].map(_parameters if column in _MAPS else str)
        if texts.nunique() > 1:
            found = " or ".join(sorted(texts.unique())[:6])
            raise UserError(f"{_words(chosen)}: several measurements fit; {column} is {found}. Say which one")
    twice = rows["seed"].duplicated()
    if twice.any():
        raise UserError(f"{_words(chosen)}: seed {rows['seed'][twice].iloc[0]} was measured twice")


def _parameters(params: Mapping[str, str] | None) -> str:
    return (
        "[" + ",".join(f"{key}={write_value(json.loads(text))}" for key, text in (params or {}).items()) + "]"
    )


def _words(chosen: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in chosen.items())
