"""Rank methods by how far beyond their training length they hold, and write it down as `leaderboard.md`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lgbench.report import scores
from lgbench.report.curves import Board, Results, format_length, load
from lgbench.report.tables import format_value
from lgbench.store import atomic_file

MULTIPLES = (1, 4, 16)
"""The value of the metric is shown at these multiples of the training length."""

HOLDS = {
    "Chance": "The value of the best answer that ignores the context, computed on the evaluation items.",
    "Normalised score": "0 at chance or worse, 1 at the best possible value, linear in between.",
    "Effective length": (
        "The largest evaluated length up to which the normalised score stays above "
        f"{scores.HOLDS_ABOVE * 100:.0f} % of the score at the training length L_train, as a multiple of the method's own "
        "L_train; the first length that fails ends it. With ≥, the method still held at the longest length evaluated. "
        "0× means no better than chance at L_train."
    ),
    "Area": (
        "The mean normalised score between L_train and the longest evaluated length, octaves weighing equally: the "
        "area under the score over log2(length / L_train), divided by its width."
    ),
    "Rank": (
        "By effective length, then by area. A method that learned little has little to lose, and longest lengths "
        "may differ: read the rank together with the values of the metric and with how far it was evaluated."
    ),
    "Interval": (
        "In brackets: 95 % bootstrap intervals. Seeds are drawn with replacement, and so are the items, the same draw "
        "for all that were measured on the same items. With one seed an interval says nothing about how another "
        "training would have ended; with fewer than five it is too narrow."
    ),
}
"""How to read a ranking: term → meaning."""


def write_leaderboard(roots: Sequence[Path], out: Path) -> Path:
    """Write the leaderboard of results folders as Markdown, atomically; the same rows give the same bytes.

    Args:
        roots: results folders.
        out: the file to write.

    Raises:
        UserError: a folder does not exist, there are no results in them, or `out` cannot be written.
    """
    text = render(load(roots), roots)
    with atomic_file(Path(out)) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(out)


def rank(board: Board) -> pd.DataFrame:
    """One row a series of a board, best first.

    Columns: `rank`, `series`, `train_length`, `reference_length` (the evaluated length that stands for it),
    `effective`, `effective_low`, `effective_high`, `is_open` (held at the longest length), `area`,
    `area_low`, `area_high`, `reach` (longest evaluated multiple), `at` (multiple → (evaluated length,
    value)), `num_seeds`, `train_wall_s`, `train_tokens_per_s`, `eval_tokens_per_s`. Lengths are multiples of
    the own training length. A series without an evaluated length up to its training length has NaN scores and
    comes last.
    """
    curve = board.curve("context")
    rows = [_entry(str(series), points, board.rows) for series, points in curve.groupby("series", sort=False)]
    table = pd.DataFrame(rows)
    if table.empty:
        return table
    table = table.sort_values(["effective", "area"], ascending=False, kind="stable", na_position="last")
    return table.assign(rank=range(1, len(table) + 1)).reset_index(drop=True)


def _entry(series: str, points: pd.DataFrame, rows: pd.DataFrame) -> dict:
    lengths = [int(length) for length in points["eval_length"]]
    train_length = int(points["train_length"].iloc[0])
    start = scores.reference_index(lengths, train_length)
    mine = rows[
        (rows["series"] == series) & (rows["axis"] == "context") & (rows["step"] == points["step"].iloc[0])
    ]
    a_seed = mine.groupby("seed")[["train_wall_s", "train_tokens_per_s", "eval_tokens_per_s"]].mean().mean()
    nothing = dict.fromkeys(
        ["effective", "effective_low", "effective_high", "area", "area_low", "area_high"], np.nan
    )
    return {
        "series": series,
        "train_length": train_length,
        "reference_length": None if start is None else lengths[start],
        "is_open": False,
        "reach": lengths[-1] / train_length,
        "at": {multiple: _value_at(points, multiple * train_length) for multiple in MULTIPLES},
        "num_seeds": int(points["num_seeds"].min()),
        **a_seed,
        **(nothing if start is None else _how_far(points, lengths, train_length)),
    }


def _how_far(points: pd.DataFrame, lengths: list[int], train_length: int) -> dict:
    chance, best = points["chance"].to_numpy(float), points["best"].to_numpy(float)
    curve = scores.normalised_score(points["value"], chance, best)
    replicates = scores.normalised_score(np.stack(points["replicates"].to_list(), axis=1), chance, best)
    replicates = replicates[np.isfinite(replicates).all(axis=1)]
    effective = float(scores.effective_length(lengths, curve, train_length))
    low, high = scores.interval(scores.effective_length(lengths, replicates, train_length))
    area_low, area_high = scores.interval(scores.area(lengths, replicates, train_length))
    return {
        "effective": effective,
        "effective_low": low,
        "effective_high": high,
        "is_open": effective == lengths[-1] / train_length,
        "area": float(scores.area(lengths, curve, train_length)),
        "area_low": area_low,
        "area_high": area_high,
    }


def _value_at(points: pd.DataFrame, length: int) -> tuple[int, float] | None:
    """The largest evaluated length up to `length`, less than an octave below it, and the value there."""
    near = points[(points["eval_length"] <= length) & (points["eval_length"] > length / 2)]
    return None if near.empty else (int(near["eval_length"].iloc[-1]), float(near["value"].iloc[-1]))


def render(results: Results, roots: Sequence[Path]) -> str:
    """The leaderboard as Markdown."""
    command = "lgbench leaderboard " + " ".join(f"--results {root}" for root in roots)
    parts = [
        "# Leaderboard",
        f"Made by `{command}` from the rows in the store; edits by hand are lost.",
        "\n".join(f"- **{term}.** {meaning}" for term, meaning in HOLDS.items()),
    ]
    for board in results.boards:
        table = rank(board)
        if table.empty:
            continue
        direction = "higher" if board.higher_is_better else "lower"
        parts.append(f"## {_escape(board.title)}")
        if board.notice:
            parts.append(f"> **Note:** {_escape(board.notice)}")
        parts.append(f"Metric: {_escape(board.metric)}, {direction} is better.")
        parts.append(_markdown(table))
        parts += notes(table)
    if not results.missing.empty:
        listed = results.missing.drop_duplicates("cell")
        lines = [
            f"- {_escape(row.task)}, {_escape(row.label)}, seed {row.seed:.0f}: "
            f"{row.outcome}: {_escape(row.reason)}"
            for row in listed.itertuples()
        ]
        parts += ["## Not measured", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def cells(entry: pd.Series) -> dict[str, str]:
    """One row of a ranking in words: heading → text."""
    shown = {
        "#": f"{entry['rank']}",
        "method": entry["series"],
        "L_train": format_length(entry["train_length"]),
    }
    if np.isnan(entry["effective"]):
        shown |= {"effective length": "–", "area": "–"}
    else:
        sign = "≥ " if entry["is_open"] else ""
        low, high = format_multiple(entry["effective_low"]), format_multiple(entry["effective_high"])
        shown["effective length"] = f"{sign}{format_multiple(entry['effective'])} [{low}, {high}]"
        shown["area"] = (
            f"{entry['area']:.3f} [{entry['area_low']:.3f}, {entry['area_high']:.3f}]"
            if np.isfinite(entry["area"])
            else "–"
        )
    for multiple, found in entry["at"].items():
        at = "–"
        if found is not None:
            exact = found[0] == multiple * entry["train_length"]
            at = format_value(found[1]) + ("" if exact else f" (at {format_length(found[0])})")
        shown["at L_train" if multiple == 1 else f"at {multiple}×"] = at
    return shown | {
        "evaluated to": format_multiple(entry["reach"]),
        "seeds": f"{entry['num_seeds']}",
        "training": format_duration(entry["train_wall_s"]),
        "tokens/s": format_rate(entry["train_tokens_per_s"]),
    }


def notes(table: pd.DataFrame) -> list[str]:
    """Sentences about entries whose training length was not evaluated."""
    sentences = []
    for entry in table.itertuples():
        if entry.reference_length is None:
            reason = f"nothing was evaluated up to its training length {format_length(entry.train_length)}"
            sentences.append(f"{entry.series} has no rank by score: {reason}.")
        elif entry.reference_length != entry.train_length:
            sentences.append(
                f"{entry.series}: its training length {format_length(entry.train_length)} was not evaluated; "
                f"{format_length(entry.reference_length)}, the nearest evaluated length below, stands for it."
            )
    return sentences


def format_multiple(multiple: float) -> str:
    """A length as a multiple of the training length: 0.5×, 4×."""
    return f"{multiple:.3g}×"


def format_duration(wall_s: float) -> str:
    """Seconds as a reader says them: 42 s, 7.5 min, 3.2 h; a dash for a method that was not trained."""
    if not np.isfinite(wall_s):
        return "–"
    if wall_s < 120:
        return f"{wall_s:.0f} s"
    return f"{wall_s / 60:.1f} min" if wall_s < 7200 else f"{wall_s / 3600:.1f} h"


def format_rate(tokens_per_s: float) -> str:
    """Tokens per second with three digits: 950, 42.1 k, 2.4 M."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if tokens_per_s >= size:
            return f"{tokens_per_s / size:.3g} {unit}"
    return f"{tokens_per_s:.0f}" if np.isfinite(tokens_per_s) else "–"


def _markdown(table: pd.DataFrame) -> str:
    rows = [cells(entry) for _, entry in table.iterrows()]
    lines = [list(rows[0]), ["---"] * len(rows[0])] + [
        [_escape(text) for text in row.values()] for row in rows
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _escape(text: str) -> str:
    """Text that Markdown and HTML show as it is, on one line."""
    text = " ".join(str(text).split()).replace("&", "&amp;").replace("<", "&lt;")
    for sign in "\\|*_`[]":
        text = text.replace(sign, f"\\{sign}")
    return text
