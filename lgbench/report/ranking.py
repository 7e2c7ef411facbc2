"""Rank the methods of a board by how far beyond their training length they hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from lgbench.report import price, scores
from lgbench.report.curves import Board

MULTIPLES = (1, 4, 16)
"""The value of the metric is shown at these multiples of the training length."""
COSTS = ["train_wall_s", "train_tokens_per_s", "eval_tokens_per_s"]


def rank(board: Board) -> pd.DataFrame:
    """One row a series of a board, best first: by effective length, then by area.

    Areas end at the longest multiple of the training length that every series was evaluated at, or beyond; a
    series without a length beyond its training length has none and shortens no other's.

    A length at which every seed gave values that are not finite counts as no better than chance. A series
    that was not evaluated at or below its training length has NaN scores and comes last.

    Returns:
        columns `rank`, `series`, `length_unit`, `train_length`, `reference_length` (the evaluated length that
        stands for it, or None), `effective`, `effective_low`, `effective_high` and `reach` (the longest
        evaluated length), all four as multiples of the own training length; `is_open` (held at the longest
        length); `area`, `area_low`, `area_high`; `at` (multiple → (evaluated length, value) or None);
        `num_seeds`, `num_seeds_run`; `COSTS`, means over seeds; `speed` and what `price.calibration` gives.
    """
    curves = list(board.curve("context").groupby("series", sort=False))
    if not curves:
        return pd.DataFrame()
    found = [(str(series), points, _scores(board, str(series), points)) for series, points in curves]
    reached = [lengths[-1] / points["train_length"].iloc[0] for _, points, (lengths, *_) in found]
    shared = min((multiple for multiple in reached if multiple > 1), default=1.0)
    table = pd.DataFrame([_entry(board, *one, shared) for one in found])
    table = table.sort_values(["effective", "area"], ascending=False, kind="stable", na_position="last")
    return table.assign(rank=range(1, len(table) + 1)).reset_index(drop=True)


def _entry(
    board: Board,
    series: str,
    points: pd.DataFrame,
    scored: tuple[list[int], scores.Floats, scores.Floats],
    shared: float,
) -> dict[str, Any]:
    """`scored` is from `_scores`; areas end at `shared` times the training length."""
    lengths, score, replicates = scored
    train_length, step = int(points["train_length"].iloc[0]), points["step"].iloc[0]
    rows = board.rows[board.rows["series"] == series]
    missing = board.missing[board.missing["series"] == series]
    final = rows[(rows["axis"] == "context") & (rows["step"] == step)]
    entry = {
        "series": series,
        "length_unit": board.length_unit,
        "train_length": train_length,
        "reference_length": None,
        "reach": lengths[-1] / train_length,
        "is_open": False,
        "at": {multiple: _value_at(points, multiple * train_length) for multiple in MULTIPLES},
        "num_seeds": int(points["num_seeds"].min()),
        "num_seeds_run": len({*rows["seed"], *missing["seed"]}),
        **final.groupby("seed")[COSTS].mean().mean(),
        "speed": price.relative_speed(final, board.rows[board.rows["axis"] == "context"]),
        **price.calibration(final),
    }
    numbers = ("effective", "effective_low", "effective_high", "area", "area_low", "area_high")
    start = scores.reference_index(lengths, train_length)
    if start is None:
        return entry | dict.fromkeys(numbers, np.nan)
    effective = float(scores.effective_length(lengths, score, train_length))
    end = shared * train_length
    found = (
        effective,
        *scores.interval(scores.effective_length(lengths, replicates, train_length)),
        float(scores.area(lengths, score, train_length, end)),
        *scores.interval(scores.area(lengths, replicates, train_length, end)),
    )
    is_open = effective == lengths[-1] / train_length
    return (
        entry
        | {"reference_length": lengths[start], "is_open": is_open}
        | dict(zip(numbers, found, strict=True))
    )


def _scores(
    board: Board, series: str, points: pd.DataFrame
) -> tuple[list[int], scores.Floats, scores.Floats]:
    """Increasing lengths, the normalised score at each, and its replicates; 0 where no value was finite."""
    missing = board.missing[board.missing["series"] == series]
    lost = missing[
        (missing["status"] == "diverged")
        & (missing["axis"] == "context")
        & (missing["step"] == points["step"].iloc[0])
    ]["eval_length"].dropna()
    chance, best = points["chance"].to_numpy(float), points["best"].to_numpy(float)
    measured = scores.normalised_score(points["value"], chance, best, board.combine)
    drawn = np.stack(points["replicates"].to_list(), axis=1)
    replicates = scores.normalised_score(drawn, chance, best, board.combine)
    replicates = replicates[np.isfinite(replicates).all(axis=1)]
    column = {int(length): index for index, length in enumerate(points["eval_length"])}
    lengths = sorted({*column, *(int(length) for length in lost)})
    score, resampled = np.zeros(len(lengths)), np.zeros((len(replicates), len(lengths)))
    for index, length in enumerate(lengths):
        if length in column:
            score[index], resampled[:, index] = measured[column[length]], replicates[:, column[length]]
    return lengths, score, resampled


def _value_at(points: pd.DataFrame, length: int) -> tuple[int, float] | None:
    """The largest evaluated length up to `length`, less than an octave below it, and the value there."""
    near = points[(points["eval_length"] <= length) & (points["eval_length"] > length / 2)]
    return None if near.empty else (int(near["eval_length"].iloc[-1]), float(near["value"].iloc[-1]))
