"""Say in a sentence what each board found: what breaks beyond the training length, and what repairs it."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from lgbench.report.curves import Board
from lgbench.report.series import SERIES
from lgbench.report.wording import count_of, format_value
from lgbench.stats.ranking import ROLES

MOST_NAMED = 4
"""Methods named on each side."""

_TRAINING = [name for name in SERIES if name not in ("label", "method", "method_params")]
"""Columns in which methods agree that were trained in the same way."""


def answers(boards: Iterable[Board]) -> list[str]:
    """Return a sentence for the headline metric of each task that has the baseline; see `answer`."""
    found = (answer(board) for board in boards if board.rank == 0)
    return [sentence for sentence in found if sentence]


def answer(board: Board) -> str:
    """Return what the baseline loses from L_train to the longest length, and which methods differ there.

    Compared are methods that were trained in the same way; of several ways, that with the most methods
    speaks. Methods differ where the 95 % interval of their paired difference to the baseline excludes 0; with
    one seed, where their intervals over items do not touch. Empty where the baseline was not measured at and
    beyond L_train.
    """
    groups = board.curve("context").groupby(_TRAINING, sort=True, dropna=False)
    ways = [rows for _, rows in groups if _beyond(rows)]
    if not ways:
        return ""
    rows = max(ways, key=lambda way: way["label"].nunique())
    trained, far = int(rows["train_length"].iloc[0]), _beyond(rows)
    own = rows[rows["label"] == ROLES["baseline"]].set_index("eval_length")
    there = rows[rows["eval_length"] == far].set_index("series")
    low, high = _gaps(there, own.loc[far], board) if there["num_seeds"].max() < 2 else _paired(there, board)
    near, then = format_value(own.at[trained, "value"]), format_value(own.at[far, "value"])
    words = [
        f"{board.task}: trained at {board.length(trained)}, {ROLES['baseline']} has {board.metric} {near} "
        f"there and {then} at {board.length(far)}"
    ]
    for which, verdict in ((low > 0, "better"), (high < 0, "worse")):
        if which.any():
            words.append(f"{verdict} there: {_named(there[which], board.higher_is_better)}")
    if len(there) > 1 and not ((low > 0) | (high < 0)).any():
        words.append("no method differs from it there beyond the 95 % intervals")
    unranked = ", unranked" if there["num_seeds"].max() < 3 else ""
    return "; ".join(words) + f" ({count_of(there['num_seeds'], 'seed')}{unranked})."


def _paired(there: pd.DataFrame, board: Board) -> tuple[pd.Series, pd.Series]:
    """Ends of the interval of the difference to the baseline, more is better; NaN for the baseline itself."""
    beside = board.beside[board.beside["eval_length"] == there["eval_length"].iloc[0]].set_index("series")
    return beside["low"].reindex(there.index), beside["high"].reindex(there.index)


def _gaps(there: pd.DataFrame, own: pd.Series, board: Board) -> tuple[pd.Series, pd.Series]:
    """From the end of one interval to the end of the other, more is better: at least, and at most."""
    least, most = there["low"] - own["high"], there["high"] - own["low"]
    return (least, most) if board.higher_is_better else (-most, -least)


def _beyond(rows: pd.DataFrame) -> int | None:
    """The longest length beyond L_train of a baseline that was measured at both; None without one."""
    lengths = set(rows.loc[rows["label"] == ROLES["baseline"], "eval_length"])
    trained = rows["train_length"].iloc[0]
    return max(lengths) if trained in lengths and max(lengths) > trained else None


def _named(rows: pd.DataFrame, higher_is_better: bool) -> str:
    """Methods with their values, the best first."""
    ordered = rows.sort_values("value", ascending=not higher_is_better, kind="stable")
    named = [
        f"{label} {format_value(value)}"
        for label, value in zip(ordered["label"], ordered["value"], strict=True)
    ]
    rest = len(named) - MOST_NAMED
    return ", ".join(named[:MOST_NAMED]) + (f" and {rest} more" if rest > 0 else "")
