"""Print the curves as tables: one row a method, one column a length, the mean with half of its interval."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from rich.text import Text

from lgbench.report.curves import Board, Results, load
from lgbench.report.wording import NOTHING, count_of, format_value, unit_in_words
from lgbench.terminal import Listing

MAX_COLUMNS = 8
"""Of a terminal table, so that it fits into 80 characters."""


def summary_table(roots: Sequence[Path], cells: Collection[str] | None = None) -> list[Listing]:
    """Terminal tables of results folders, one a task, data set, preset and metric, and of failures.

    With `cells`, keys of cells, only those that one of these cells belongs to.

    Rows are methods, columns a readable subset of the evaluation lengths; a value is the mean over seeds and
    items, under it half of its 95 % interval; the best of a column is bold; the last row is the best answer
    that ignores the context.

    Raises:
        UserError: a folder does not exist, or there are no results in them.
    """
    return tables_of(load(roots, cells))


def tables_of(results: Results) -> list[Listing]:
    """The same tables of what was read already."""
    tables = [_table(board) for board in _comparable(results.boards) if not board.curve("context").empty]
    if results.missing.empty:
        return tables
    headings = [*map(str, results.missing)]
    rows = [[str(value) for value in row] for row in results.missing.itertuples(index=False)]
    title = {"title": "Not measured", "title_style": "bold red"}
    return [*tables, Listing(headings=headings, rows=rows, words=headings, **title)]


def _comparable(boards: Iterable[Board]) -> Iterator[Board]:
    """The headline metric of each task, and others on its scale; a log-probability beside accuracy is not."""
    best = None
    for board in boards:
        own = board.rows["best"].iloc[0]
        best = own if board.rank == 0 else best
        if own == best:
            yield board


def pivot(curve: pd.DataFrame, column: str, x: str = "eval_length") -> pd.DataFrame:
    """One row a series in their order, one column a length; NaN where a series was not evaluated."""
    order = list(dict.fromkeys(curve["series"]))
    return curve.pivot_table(index="series", columns=x, values=column, aggfunc="first").loc[order]


def best_of(values: pd.Series, higher_is_better: bool) -> str | None:
    """The series with the best value of a column; None if fewer than two were measured."""
    values = values.dropna()
    if len(values) < 2:
        return None
    return str(values.idxmax() if higher_is_better else values.idxmin())


def readable_subset(lengths: Sequence[int], anchor: int) -> list[int]:
    """At most `MAX_COLUMNS` of increasing lengths, evenly spaced around `anchor`, the longest among them."""
    stride = -(-len(lengths) // MAX_COLUMNS)
    middle = max((index for index, length in enumerate(lengths) if length <= anchor), default=0)
    kept = {index for index in range(len(lengths)) if (index - middle) % stride == 0} | {len(lengths) - 1}
    return [lengths[index] for index in sorted(kept)[-MAX_COLUMNS:]]


def _table(board: Board) -> Listing:
    curve = board.curve("context")
    values, low, high = (pivot(curve, name) for name in ("value", "low", "high"))
    lengths = readable_subset([int(length) for length in values.columns], curve["train_length"].mode()[0])
    rows: list[list[str | Text]] = []
    best = {length: best_of(values[length], board.higher_is_better) for length in lengths}
    for series in values.index:
        cells = []
        for length in lengths:
            value, half = values.at[series, length], (high.at[series, length] - low.at[series, length]) / 2
            text = f"{format_value(value)}\n±{format_value(half, value)}" if np.isfinite(value) else NOTHING
            is_best = series == best[length]
            cells.append(Text(text, style="bold" if is_best else ""))
        rows.append([series, *cells])
    chance = curve.groupby("eval_length")["chance"].mean()
    rows.append(["chance", *(format_value(chance[length]) for length in lengths)])
    return Listing(
        headings=["method", *map(board.length, lengths)],
        rows=rows,
        words=["method"],
        title=f"{board.title}: {board.metric} ({board.direction})",
        caption=_caption(board, curve),
        styles=[""] * len(values) + ["dim"],
        sections={len(values) - 1},
    )


def _caption(board: Board, curve: pd.DataFrame) -> str:
    trained = ", ".join(board.length(length) for length in sorted(curve["train_length"].unique()))
    seeds = count_of(curve["num_seeds"], "seed")
    text = f"Lengths in {unit_in_words(board.length_unit)}; trained up to {trained}; {seeds}"
    text += "; ± half of the 95 % interval."
    return f"{text}\n{board.notice}" if board.notice else text
