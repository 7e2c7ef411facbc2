"""The answer in one table: every method on every task, as its difference in long score to the baseline."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from lgbench.report.curves import Board
from lgbench.report.standings import Standing
from lgbench.report.wording import NOTHING, format_length
from lgbench.stats.pairs import ALPHA
from lgbench.stats.ranking import ROLES

ORDER = ("denser", "longer", "more candidates")
"""What more context means, in the order of the columns."""
BETTER, WORSE = (103, 169, 207), (239, 138, 98)
"""Ends of the colours, ColorBrewer's RdBu: for colour-blind readers; dark text is legible on both."""
FULL = 0.5
"""The difference that has the full colour."""


def matrix(found: Iterable[tuple[Board, Sequence[Standing]]]) -> dict[str, Any]:
    """Lines are methods, columns are tasks with their L_train, put together by what more context means.

    Only headline metrics, and only methods that are ranked. Nothing is averaged over tasks.

    Returns:
        `groups`, (meaning, number of columns) from left to right; `columns`, each with `task`, `train` and
        the `slug` of its board; `lines`, each with `method` and `cells`, one a column: `text`, `letters`,
        `colour` (CSS, or empty), `sure` (significant after Holm's correction) and `half`. Empty without a
        ranked method.
    """
    columns = []
    for board, shown in found:
        means = str(board.rows["context_means"].iloc[0])
        for standing in shown if board.rank == 0 else ():
            cells = _cells(standing)
            if cells:
                train = f"L {format_length(standing.train_length, board.length_unit)}"
                task = board.title.partition(", data")[0].replace("_", " ")
                columns.append(
                    {"means": means, "task": task, "train": train, "slug": board.slug, "cells": cells}
                )
    columns.sort(key=lambda column: (*ORDER, column["means"]).index(column["means"]))
    methods = sorted({name for column in columns for name in column["cells"]})
    first = [name for role in ROLES.values() for name in methods if name.partition(" ")[0] == role]
    lines = [
        {"method": name, "cells": [column["cells"].get(name, _EMPTY) for column in columns]}
        for name in [*first, *(name for name in methods if name not in first)]
    ]
    means = [column["means"] for column in columns]
    groups = [(name, means.count(name)) for name in dict.fromkeys(means)]
    return {"groups": groups, "columns": columns, "lines": lines} if columns else {}


_EMPTY = {"text": NOTHING, "half": "", "letters": "", "colour": "", "sure": False}


def _cells(standing: Standing) -> dict[str, dict[str, Any]]:
    """Method → its entry, of the ranked ones; of the baseline its long score itself."""
    cells = {}
    ranked = standing.table[standing.table["rank"].notna()]
    for row in ranked.itertuples():
        if row.series == row.baseline:
            cells[row.series] = _EMPTY | {"text": f"{row.long:.2f}", "letters": row.letters}
        elif np.isfinite(row.baseline_delta):
            cells[row.series] = {
                "text": f"{row.baseline_delta:+.2f}".replace("-", "−"),
                "half": f"± {row.baseline_half:.2f}" if np.isfinite(row.baseline_half) else "",
                "letters": row.letters,
                "colour": _colour(row.baseline_delta),
                "sure": bool(row.baseline_p < ALPHA),
            }
    return cells


def _colour(delta: float) -> str:
    """White at 0, blue where a method is better, red where it is worse; full at `FULL`."""
    share = min(1.0, abs(delta) / FULL)
    end = BETTER if delta > 0 else WORSE
    red, green, blue = (round(255 + share * (part - 255)) for part in end)
    return f"rgb({red} {green} {blue})"
