"""The answer in one table: every method on every task, as its difference in long score to the baseline."""

from __future__ import annotations

import re
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
        `groups`, (meaning, number of columns) from left to right; `columns`, each with `task`, `train`,
        `setting` of the baseline and the `slug` of its board; `lines`, each with `method` and `cells`, one a
        column: `text`, `half`, `letters`, `colour` (CSS, or empty) and `sure` (significant after Holm's
        correction). Empty without a ranked method.
    """
    columns = []
    for board, shown in found:
        means = str(board.rows["context_means"].iloc[0])
        task = board.title.partition(", data")[0].replace("_", " ")
        for standing in shown if board.rank == 0 else ():
            train = f"L {format_length(standing.train_length, board.length_unit)}"
            for setting, cells in _cells(board, standing).items():
                column = {"means": means, "task": task, "train": train, "slug": board.slug}
                columns.append(column | {"setting": setting, "cells": cells})
    columns.sort(key=lambda column: (*ORDER, column["means"]).index(column["means"]))
    methods = sorted({name for column in columns for name in column["cells"]})
    first = [name for name in ROLES.values() if name in methods]
    lines = [
        {"method": name, "cells": [column["cells"].get(name, _EMPTY) for column in columns]}
        for name in [*first, *(name for name in methods if name not in first)]
    ]
    means = [column["means"] for column in columns]
    groups = [(name, means.count(name)) for name in dict.fromkeys(means)]
    return {"groups": groups, "columns": columns, "lines": lines} if columns else {}


_EMPTY = {"text": NOTHING, "half": "", "letters": "", "colour": "", "sure": False}


def _cells(board: Board, standing: Standing) -> dict[str, dict[str, dict[str, Any]]]:
    """Setting of a baseline → method → its entry, of the ranked ones; of the baseline its long score itself.

    A method that is compared with one baseline in several settings is named with them.
    """
    ranked = standing.table[standing.table["rank"].notna() & standing.table["baseline"].ne("")]
    labels = board.rows.groupby("series")["label"].first()
    found: dict[str, dict[str, dict[str, Any]]] = {}
    several = ranked["baseline"].nunique() > 1
    for row in ranked.itertuples():
        mine = found.setdefault(_setting(row.baseline) if several else "", {})
        name = labels[row.series] if labels[row.series] not in mine else row.series
        if row.series == row.baseline:
            mine[name] = _EMPTY | {"text": f"{row.long:.2f}", "letters": row.letters}
        elif np.isfinite(row.baseline_delta):
            mine[name] = {
                "text": _signed(row.baseline_delta),
                "half": f"± {row.baseline_half:.2f}" if np.isfinite(row.baseline_half) else "",
                "letters": row.letters,
                "colour": _colour(row.baseline_delta),
                "sure": bool(row.baseline_p < ALPHA),
            }
    return found


def _setting(series: str) -> str:
    """What tells a series from others of its label, without the training length."""
    words = series.partition(" (")[2].removesuffix(")")
    return re.sub(r"trained on \S+, ", "", words)


def _signed(delta: float) -> str:
    """+0.12, −0.03, and 0.00 for what rounds to it."""
    text = f"{delta:+.2f}"
    return "0.00" if float(text) == 0 else text.replace("-", "−")


def _colour(delta: float) -> str:
    """White at 0, blue where a method is better, red where it is worse; full at `FULL`."""
    share = min(1.0, abs(delta) / FULL)
    end = BETTER if delta > 0 else WORSE
    red, green, blue = (round(255 + share * (part - 255)) for part in end)
    return f"rgb({red} {green} {blue})"
