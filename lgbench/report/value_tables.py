"""Tables of a report: every value with its interval, a line a method, and depths behind the heat maps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from lgbench.report.curves import Board
from lgbench.report.heatmap import depth_cells
from lgbench.report.tables import pivot
from lgbench.report.vertical import X_COLUMN
from lgbench.report.wording import NOTHING, count_of, format_length, format_value
from lgbench.stats.pairs import ALPHA, holm
from lgbench.stats.ranking import ROLES

AXES = {"context": "context length", "position": "position in the context", "queries": "number of queries"}
"""What figures and tables are drawn over, in their order on the page, in words."""


def value_table(board: Board, axis: str) -> dict[str, Any]:
    """One line a method, one column a length: mean, interval, and the number of seeds where it is unusual.

    Along the context, a value is `sure` if it is better than that of the baseline on the same seeds and items
    after Holm's correction over the whole table.
    """
    curve, x = board.curve(axis), X_COLUMN[axis]
    values, low, high, seeds = (pivot(curve, name, x) for name in ("value", "low", "high", "num_seeds"))
    usual = int(curve["num_seeds"].mode().max())
    chance = curve.groupby(x)["chance"].mean()
    sure = _better(board) if axis == "context" else set[tuple[str, float]]()
    lines = []
    for name in board.series:
        if name not in values.index:
            continue
        cells = []
        columns = (table.loc[name].tolist() for table in (values, low, high, seeds))
        for length, value, least, most, count in zip(values.columns, *columns, strict=True):
            interval = ""
            if np.isfinite(value):
                interval = f"[{', '.join(format_value(end, value) for end in (least, most))}]"
                interval += f" ({count_of([count], 'seed')})" if count != usual else ""
            cells.append(_cell(value, interval, (name, float(length)) in sure))
        lines.append({"method": name, "cells": cells})
    lines.append(
        {"method": "chance", "cells": [_cell(chance[length], "", False) for length in values.columns]}
    )
    bold = (
        f" Bold: better than {ROLES['baseline']}, Holm’s correction over the table."
        if axis == "context"
        else ""
    )
    return {
        "title": f"{board.metric} by {AXES[axis]}",
        "lengths": _headings(board, axis, list(values.columns)),
        "lines": lines,
        "note": f"Mean and 95 % interval over {count_of([usual], 'seed')} and the evaluation items, "
        f"unless said otherwise; {board.direction}.{bold} {NOTHING}: not evaluated.{_wilson_note(board)}",
    }


def _cell(value: float, interval: str, is_sure: bool) -> dict[str, Any]:
    order = f"{value:.6g}" if np.isfinite(value) else ""
    return {"value": format_value(value), "interval": interval, "best": is_sure, "order": order}


def _headings(board: Board, axis: str, lengths: list[float]) -> list[str]:
    show = format_length if axis == "queries" else board.length
    if axis != "position":
        return [show(length) for length in lengths]
    return [f"{show(before)}–{show(length)}" for before, length in zip([0, *lengths], lengths, strict=False)]


def _better(board: Board) -> set[tuple[str, float]]:
    """Series and lengths that are better than the baseline after correction over all of them."""
    beside = board.beside
    known: pd.DataFrame = beside[beside["p"].notna()]
    found = known[(holm(known["p"]) < ALPHA) & (known["value"] > 0)] if len(known) else known
    return {(name, float(length)) for name, length in zip(found["series"], found["eval_length"], strict=True)}


def _wilson_note(board: Board) -> str:
    if not board.is_binary:
        return ""
    return " Items are right or wrong: an interval is at least Wilson’s, see “Interval”."


def depth_tables(board: Board) -> list[dict[str, Any]]:
    """One table a method of the depths × lengths that the heat map shows, with intervals."""
    tables = []
    found = depth_cells(board)
    for series, mine in found.groupby("series", sort=False):
        lengths, cells = sorted(mine["eval_length"].unique()), mine.set_index(["depth", "eval_length"])
        lines = []
        for depth in sorted(mine["depth"].unique()):
            shown = []
            for length in lengths:
                if (depth, length) not in cells.index:
                    shown.append(_cell(np.nan, "", False))
                    continue
                cell = cells.loc[(depth, length)]
                interval = f"[{format_value(cell['low'])}, {format_value(cell['high'])}]"
                shown.append(_cell(cell["value"], interval, False))
            lines.append({"depth": f"{depth:.2g}", "cells": shown})
        tables.append(
            {
                "title": f"{board.metric} of {series} by depth (lines) and {board.length_unit} (columns)",
                "lengths": [board.length(length) for length in lengths],
                "lines": lines,
                "note": f"Mean and 95 % interval over {count_of(mine['num_seeds'], 'seed')} and "
                f"{count_of(mine['num_items'], 'item')} each; {board.direction}.{_wilson_note(board)}",
            }
        )
    return tables
