"""Write the ranking of every board down as `leaderboard.md`, rendered from the store alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lgbench.report.curves import Board, Results, load
from lgbench.report.ranking import rank
from lgbench.report.scores import HOLDS_ABOVE
from lgbench.report.wording import (
    NOTHING,
    format_count,
    format_duration,
    format_length,
    format_multiple,
    format_rate,
    format_value,
)
from lgbench.store import atomic_file

DEFINITIONS = {
    "Chance": "The value of the best answer that ignores the context, computed on the evaluation items.",
    "Normalised score": (
        "0 at chance or worse, 1 at the best possible value, linear in between; of a perplexity, linear in "
        "its logarithm."
    ),
    "Effective length": (
        "The largest evaluated length up to which the normalised score stays above "
        f"{HOLDS_ABOVE * 100:.0f} % "
        "of the score at the training length L_train, as a multiple of the method's own L_train; the first "
        "length that fails ends it. With ≥, the method still held at the longest length evaluated. 0× means "
        "no better than chance at L_train. A length where no value was finite fails."
    ),
    "Area": (
        "The mean normalised score between L_train and the longest multiple of it up to which all methods of "
        "the table were evaluated, octaves weighing equally: the area under the score over "
        "log2(length / L_train), divided by its width."
    ),
    "Rank": (
        "By effective length, then by area. A method that learned little has little to lose, and the longest "
        "evaluated lengths may differ: read the rank together with the values and with “evaluated to”."
    ),
    "Interval": (
        "In brackets, 95 %, by bootstrap. Seeds are drawn with replacement, and so are the items, the same "
        "draw for everything measured on the same items. With one seed an interval says nothing about how "
        "another training would have ended; with fewer than five it is too narrow. In tables and figures, "
        "where items are either right or wrong, an interval is at least Wilson’s of all items of all seeds "
        "pooled: ten right answers of ten do not make a method certain. Rankings keep the bootstrap alone."
    ),
    "Speed vs vanilla": (
        "Tokens per second in evaluation as a multiple of vanilla’s, measured on the same kind of machine "
        "with the same code, items and sizes: the median over the lengths of both, or their longest alone "
        "where only one of the two answers all lengths from one pass. Tokens that a method leaves out count "
        "as read."
    ),
    "Fitted": (
        "Scalars fitted to calibration data for one length, and the seconds that the fits of all evaluated "
        "lengths took, mean over seeds. Not among the trained parameters."
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


def render(results: Results, roots: Sequence[Path]) -> str:
    """The leaderboard as Markdown: a ranking a board, what was not measured, and how to read it."""
    command = " ".join(["lgbench leaderboard", *(f"--results {root}" for root in roots)])
    parts = ["# Leaderboard", f"Made by `{command}` from the rows in the store. Do not edit: edits are lost."]
    for board in results.boards:
        parts += _section(board)
    if not results.missing.empty:
        parts += ["## Not measured", _table(results.missing.to_dict("records"))]
    parts += ["## How to read this", "\n".join(f"- **{term}.** {text}" for term, text in DEFINITIONS.items())]
    return "\n\n".join(parts) + "\n"


def cells(entry: pd.Series) -> dict[str, str]:
    """One row of a ranking in words: heading → text."""
    shown = {
        "#": f"{entry['rank']}",
        "method": entry["series"],
        "L_train": format_length(entry["train_length"], entry["length_unit"]),
        "effective length": NOTHING,
        "area": NOTHING,
    }
    if np.isfinite(entry["effective"]):
        low, high = format_multiple(entry["effective_low"]), format_multiple(entry["effective_high"])
        sign = "≥ " if entry["is_open"] else ""
        shown["effective length"] = f"{sign}{format_multiple(entry['effective'])} [{low}, {high}]"
    if np.isfinite(entry["area"]):
        shown["area"] = f"{entry['area']:.3f} [{entry['area_low']:.3f}, {entry['area_high']:.3f}]"
    for multiple, found in entry["at"].items():
        text = NOTHING
        if found is not None:
            exact = found[0] == multiple * entry["train_length"]
            text = format_value(found[1]) + (
                "" if exact else f" (at {format_length(found[0], entry['length_unit'])})"
            )
        shown["at L_train" if multiple == 1 else f"at {multiple}×"] = text
    lost = entry["num_seeds"] != entry["num_seeds_run"]
    fitted = NOTHING
    if entry["num_fitted"] > 0:
        fitted = f"{format_count(entry['num_fitted'])} in {format_duration(entry['calibration_wall_s'])}"
    return shown | {
        "evaluated to": format_multiple(entry["reach"]),
        "seeds": f"{entry['num_seeds']} of {entry['num_seeds_run']}" if lost else f"{entry['num_seeds']}",
        "training": format_duration(entry["train_wall_s"]),
        "tokens/s": format_rate(entry["train_tokens_per_s"]),
        "speed vs vanilla": format_multiple(entry["speed"]) if np.isfinite(entry["speed"]) else NOTHING,
        "fitted": fitted,
    }


def notes(table: pd.DataFrame) -> list[str]:
    """Sentences about entries of a ranking whose training length was not evaluated."""
    sentences = []
    for entry in table.itertuples():
        trained = format_length(entry.train_length, entry.length_unit)
        if pd.isna(entry.reference_length):
            sentences.append(f"{entry.series}: nothing was evaluated up to its L_train {trained}: no score.")
        elif entry.reference_length != entry.train_length:
            sentences.append(
                f"{entry.series}: its L_train {trained} was not evaluated; the nearest evaluated length "
                f"below, {format_length(entry.reference_length, entry.length_unit)}, stands for it."
            )
    return sentences


def _section(board: Board) -> list[str]:
    table = rank(board)
    if table.empty:
        return []
    return [
        f"## {_escape(board.title)}: {_escape(board.metric)}",
        *([f"> **Note:** {_escape(board.notice)}"] if board.notice else []),
        f"Metric: {_escape(board.metric)}, {board.direction}. Lengths in {board.length_unit}.",
        _table([cells(entry) for _, entry in table.iterrows()]),
        *map(_escape, notes(table)),
    ]


def _table(rows: list[dict[str, str]]) -> str:
    lines = [
        list(rows[0]),
        ["---"] * len(rows[0]),
        *([_escape(text) for text in row.values()] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _escape(text: str) -> str:
    """Text on one line that Markdown and HTML show as it is."""
    text = " ".join(str(text).split()).replace("&", "&amp;").replace("<", "&lt;")
    for sign in "\\|*_`[]":
        text = text.replace(sign, f"\\{sign}")
    return text
