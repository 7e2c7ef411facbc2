"""Show every method on every task at once: differences in long score, never one number over tasks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from lgbench.report.curves import Board
from lgbench.report.standings import Standing
from lgbench.report.wording import NOTHING
from lgbench.stats.pairs import ALPHA

_ORDER = ("denser", "longer", "more candidates")


def overall(found: Iterable[tuple[Board, Sequence[Standing]]]) -> dict[str, list[dict[str, str]]]:
    """What more context means → a matrix, a line a method and a column a task with its L_train.

    Only headline metrics, and only methods that are ranked. An entry is the difference in long score to the
    baseline with half of its 95 % interval, and * where it is significant.
    """
    columns: dict[str, dict[str, dict[str, str]]] = {}
    for board, shown in found:
        if board.rank != 0:
            continue
        means = str(board.rows["context_means"].iloc[0])
        for standing in shown:
            entries = _entries(standing)
            if entries:
                columns.setdefault(means, {})[f"{board.title}, {standing.title}"] = entries
    order = sorted(columns, key=lambda means: (*_ORDER, means).index(means))
    return {means: _matrix(columns[means]) for means in order}


def _entries(standing: Standing) -> dict[str, str]:
    """Series → its difference to the baseline, of the ranked ones that have one."""
    entries = {}
    for row in standing.table.itertuples():
        if np.isfinite(row.rank) and np.isfinite(row.baseline_delta):
            star = " *" if row.baseline_p < ALPHA else ""
            delta = f"{row.baseline_delta:+.3f}".replace("-", "−")
            entries[row.series] = f"{delta} ± {row.baseline_half:.3f}{star}"
    return entries


def _matrix(columns: dict[str, dict[str, str]]) -> list[dict[str, str]]:
    methods = sorted({name for entries in columns.values() for name in entries})
    return [
        {"method": name} | {title: entries.get(name, NOTHING) for title, entries in columns.items()}
        for name in methods
    ]
