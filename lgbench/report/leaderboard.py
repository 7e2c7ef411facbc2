"""Write the ranking of every board down as `leaderboard.md`, rendered from the store alone."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from lgbench.report.curves import Board, Results, load
from lgbench.report.overall import overall
from lgbench.report.standings import Standing, standings
from lgbench.safe_text import for_markdown, plain
from lgbench.stats.scores import HOLDS_ABOVE
from lgbench.store import atomic_file

DEFINITIONS = {
    "Chance": "The value of the best answer that ignores the context, computed on the evaluation items.",
    "Score": (
        "0 at chance or worse, 1 at the best possible value, linear in between; of a perplexity, linear "
        "in its logarithm. 0 for a seed that diverged."
    ),
    "Long score": (
        "The mean score from L_train to the horizon of the task, a fixed multiple of L_train, octaves "
        "weighing equally (trapezoids in log2 of the length). It is absolute: who learned little gains "
        "nothing."
    ),
    "In-range score": "The same mean from the shortest evaluated length to L_train.",
    "Rank": (
        "1 + the number of methods with a significantly better long score, among methods with equal "
        "L_train: paired t-tests over seeds and items, all pairs of a table corrected together (Holm, 5 "
        "%). Nobody ranks before a method with a higher long score, by which methods of equal rank are "
        "ordered, and a method whose long score is higher and that lost fewer seeds to divergence counts "
        "as better. Methods that share a letter do not differ significantly; letters need 5 seeds."
    ),
    "Not ranked": (
        "Who has not learned the task at L_train, was not evaluated up to the horizon, lacks a seed of 0,"
        " 1, 2, …, has fewer than 3 seeds, ran out of memory, or was measured on other items or twice."
    ),
    "Δ": (
        "Difference in long score on the same seeds and items. With *, it is significant after Holm's "
        "correction over the differences of all ranked methods to baseline and control."
    ),
    "±": (
        "Half of the 95 % interval, by Student's t over variance components of seeds and of items (or of "
        "what items share: a book, an article, a character). One seed has none: it says nothing about how"
        " another training would have ended."
    ),
    "Effective length": (
        f"Where the score first falls below {HOLDS_ABOVE * 100:.0f} % of its best up to L_train, "
        "interpolated in log2 of the length, as a multiple of L_train: median and range over seeds. With "
        "≥, the median seed still held at the longest length evaluated. It does not enter the rank."
    ),
    "Retention, gain": (
        "Unclipped, so that worse than chance shows: mean over the octaves of the long score of the "
        "smaller of the score and the best in-range score, and of what is above the latter."
    ),
    "Harm": "The largest loss in unclipped score against the baseline on the same seeds, at any length.",
    "Recovered": (
        "(S_method − S_control) / (S_ceiling − S_control) at a length where the ceiling, the baseline "
        "trained at that length on equally many tokens, was measured; undefined where the ceiling is less"
        " than 2 standard errors above the control."
    ),
    "Interval": (
        "In brackets, in tables and figures: 95 %, as for ±; with one seed over its items alone. Where "
        "items are right or wrong it is at least Wilson's of as many trials as the share is worth, never "
        "more than there are clusters of items, since the same item under several seeds is not several "
        "items."
    ),
    "Speed": (
        "Tokens per second in evaluation as a multiple of the baseline's, measured on the same kind of "
        "machine with the same code, items and sizes: the median over the lengths of both, or their "
        "longest alone where only one of the two answers all lengths from one pass. Tokens that a method "
        "leaves out count as read."
    ),
    "Fitted": (
        "Scalars fitted to calibration data for one length; tokens and seconds of the fits of all "
        "evaluated lengths, mean over seeds. Not among the trained parameters."
    ),
    "State": (
        "Bytes carried from token to token for one item, after the shortest and after the longest context "
        "where it grows; – where it was not measured."
    ),
}
"""How to read a ranking: term → meaning."""


def write_leaderboard(roots: Sequence[Path], out: Path, results: Results | None = None) -> Path:
    """Write the leaderboard of results folders as Markdown, atomically; the same rows give the same bytes.

    Args:
        roots: results folders.
        out: the file to write.
        results: what `load` gave for these folders; they are read if None.

    Raises:
        UserError: a folder does not exist, there are no results in them, or `out` cannot be written.
    """
    text = render(load(roots) if results is None else results, roots)
    with atomic_file(Path(out)) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(out)


def render(results: Results, roots: Sequence[Path]) -> str:
    """The leaderboard as Markdown: an overview, a ranking a board, what was left out, and how to read it."""
    command = " ".join(["lgbench leaderboard", *(f"--results {shlex.quote(str(root))}" for root in roots)])
    parts = [
        "# Leaderboard",
        f"Made by {_code(command)} from the rows in the store. Do not edit: edits are lost.",
    ]
    found = [(board, standings(board)) for board in results.boards]
    parts += _overall(found)
    for board, shown in found:
        parts += _section(board, shown)
    if not results.missing.empty:
        parts += ["## Not measured", _table(results.missing.to_dict("records"))]
    if results.left_out:
        parts += ["## Left out", "\n".join(f"- {for_markdown(sentence)}" for sentence in results.left_out)]
    parts += ["## How to read this", "\n".join(f"- **{term}.** {text}" for term, text in DEFINITIONS.items())]
    return "\n\n".join(parts) + "\n"


def _overall(found: list[tuple[Board, list[Standing]]]) -> list[str]:
    parts = []
    for means, table in overall(found).items():
        parts += [f"### More context means {for_markdown(means)}", _table(table)]
    if not parts:
        return []
    return [
        "## All tasks",
        "Differences in long score to the baseline of the same table, of ranked methods; * as below. Tasks "
        "are not averaged: they measure different things.",
        *parts,
    ]


def _section(board: Board, shown: list[Standing]) -> list[str]:
    if not shown:
        return []
    means, unit = for_markdown(board.rows["context_means"].iloc[0]), for_markdown(board.length_unit)
    horizon, learned = board.rows["horizon"].max(), board.rows["learned"].max()
    parts = [
        f"## {for_markdown(board.title)}: {for_markdown(board.metric)}",
        *([f"> **Note:** {for_markdown(board.notice)}"] if board.notice else []),
        f"Metric: {for_markdown(board.metric)}, {board.direction}. Lengths in {unit}; more context means "
        f"{means}. Horizon {horizon:.3g}× L_train; a score of {learned:g} at L_train counts as learned.",
    ]
    for standing in shown:
        parts += [f"### {for_markdown(standing.title)}"]
        parts += [_table(standing.ranked)] if standing.ranked else ["Nothing is ranked."]
        if standing.unranked:
            parts += ["Not ranked:", _table(standing.unranked)]
        parts += ["Beside the rank, unclipped:", _table(standing.beside), *map(for_markdown, standing.notes)]
    return parts


def _table(rows: list[dict[str, str]]) -> str:
    lines = [
        [for_markdown(heading) for heading in rows[0]],
        ["---"] * len(rows[0]),
        *([for_markdown(text) for text in row.values()] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _code(text: str) -> str:
    """Text as code, between more backticks than it has in a row itself."""
    shown = plain(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    blank = " " * ("`" in shown)
    return f"{fence}{blank}{shown}{blank}{fence}"
