"""Keep what an earlier run measured of a cell that is not finished: only the missing points are measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lgbench.plan.cells import Cell
from lgbench.recipe import Recipe
from lgbench.store import Store
from lgbench.store.rows_file import UNREADABLE, read_rows

Row = dict[str, Any]

Point = tuple[str, int, int | None]
"""An axis and a place on it: a context length, or the training length and a number of queries."""


def kept_rows(store: Store, cell: Cell, **same: str) -> list[Row]:
    """Rows of a cell that have numbers, of the file that its last run left; none if there is no such file.

    Args:
        store: the results folder.
        cell: whose rows.
        same: columns that must have these values, else a row does not count.
    """
    try:
        rows: list[Row] = read_rows(store.path(cell.task, cell.key)).to_pylist()
    except UNREADABLE:
        return []
    return [
        row for row in rows
        if row["item_values"] is not None and all(row[name] == value for name, value in same.items())
    ]  # fmt: skip


def point(row: Mapping[str, Any]) -> Point:
    """Where a row is; "position" rows are measured together with the context length that they belong to."""
    queries = row["axis"] == "queries"
    return "queries" if queries else "context", row["eval_length"], row["num_queries"] if queries else None


def points(recipe: Recipe) -> list[Point]:
    """All points of an evaluation."""
    contexts: list[Point] = [("context", length, None) for length in recipe.eval_lengths]
    return contexts + [("queries", recipe.train_length, number) for number in recipe.query_grid]


def without(recipe: Recipe, rows: Iterable[Row]) -> Recipe:
    """The recipe without the points that these rows have measured."""
    known = {point(row) for row in rows}
    left = [one for one in points(recipe) if one not in known]
    return replace(
        recipe,
        eval_lengths=tuple(length for axis, length, _ in left if axis == "context"),
        query_grid=tuple(number for axis, _, number in left if axis == "queries"),
    )


def together(kept: Sequence[Row], new: Sequence[Row]) -> list[Row]:
    """Rows of a cell: new ones, and kept ones of points where nothing new was measured."""
    measured = {point(row) for row in new if row["status"] in ("ok", "diverged")}
    stays = [row for row in kept if point(row) not in measured]
    known = {point(row) for row in stays}
    return stays + [row for row in new if point(row) not in known]
