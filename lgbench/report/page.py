"""Write the report: figures for papers, and one HTML page that needs nothing but itself."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from matplotlib.figure import Figure

from lgbench.claims import all_claims
from lgbench.claims.cells import Cells
from lgbench.claims.render import decided_lines
from lgbench.report.budget import cost_figure, has_steps, steps_figure
from lgbench.report.curves import Board, Results, load
from lgbench.report.figures import curve_figure
from lgbench.report.heatmap import depth_cells, depth_figure
from lgbench.report.leaderboard import DEFINITIONS
from lgbench.report.profile import profile_figure
from lgbench.report.standings import Standing, drawn, standings
from lgbench.report.strips import MAX_IMAGES, Strip, read_strips, strip_figure
from lgbench.report.style import save
from lgbench.report.tables import best_of, pivot
from lgbench.report.trace import read_environments, trace_cells
from lgbench.report.vertical import X_COLUMN
from lgbench.report.wording import NOTHING, count_of, format_length, format_value
from lgbench.store import atomic_file

MOST_DRAWN = 20
"""Series in the figures of a board; tables have all."""
MOST_LINES = 10
"""Series in one figure, where they could be told apart by training length."""
AXES = {"context": "context length", "position": "position in the context", "queries": "number of queries"}
"""What figures and tables are drawn over, in their order on the page, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportResult:
    """What a report consists of.

    Attributes:
        html: the page.
        results: what was read.
        figures: PNG, PDF and SVG files of the figures, in the order of the page.
        warnings: what a reader must know, a sentence each; they are on the page too.
    """

    html: Path
    results: Results = field(compare=False)
    figures: list[Path]
    warnings: list[str]


def build_report(roots: Sequence[Path], out: Path) -> ReportResult:
    """Write OUT/index.html and OUT/figures/; the same rows give the same bytes.

    Args:
        roots: results folders.
        out: folder to write to; files of an earlier report are replaced.

    Raises:
        UserError: a results folder does not exist, there are no results, or `out` cannot be written.
    """
    results = load(roots)
    out = Path(out)
    boards, paths = [], []
    for board in results.boards:
        shown = []
        strips = read_strips(roots, board, results.warnings) if board.rank == 0 else []
        ranked = standings(board)
        for name, caption, figure in _figures(board, strips, ranked):
            stem = out / "figures" / f"{board.slug}-{name}"
            written = save(figure, stem)
            paths += written
            shown.append({"data": _inline(written), "caption": caption, "stem": stem.name})
        boards.append(_board(board, shown, ranked))
    notices = sorted(set(results.rows["notice"]) - {""})
    source = files("lgbench.report").joinpath("page.jinja").read_text(encoding="utf-8")
    jinja = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = jinja.from_string(source).render(
        title="Length generalization: results of lgbench",
        summary=_summary(results),
        notices=notices,
        warnings=[warning for warning in results.warnings if warning not in notices],
        boards=boards,
        missing=results.missing.to_dict("records"),
        claims=decided_lines(all_claims(), Cells(results.rows)),
        provenance=trace_cells(results.rows),
        environments=read_environments(roots, results.rows),
        definitions=_definitions(results.boards),
    )
    target = out / "index.html"
    with atomic_file(target) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return ReportResult(html=target, results=results, figures=paths, warnings=results.warnings)


def _legible(board: Board, axis: str) -> Iterable[tuple[str, Board]]:
    """Name and content of each figure along an axis: one, or one a training length where lines are many."""
    curve = board.curve(axis)
    lengths = sorted(curve["train_length"].unique())
    if not curve.empty and (len(lengths) == 1 or curve["series"].nunique() <= MOST_LINES):
        yield axis, board
    else:
        for length in lengths:
            part = replace(board, rows=board.rows[board.rows["train_length"] == length])
            if not part.curve(axis).empty:
                yield f"{axis}-{length}", part


def _figures(
    board: Board, strips: Sequence[Strip], ranked: Sequence[Standing]
) -> Iterable[tuple[str, str, Figure]]:
    """Name, caption and figure, one at a time."""
    board, more = drawn(board, ranked, MOST_DRAWN)
    methods = ", ".join(board.series) + more
    for axis, words in AXES.items():
        for name, part in _legible(board, axis):
            shown = ", ".join(dict.fromkeys(part.curve(axis)["series"])) + more
            yield name, f"{board.metric} against {words}: {shown}.", curve_figure(part, axis)
    found = depth_cells(board)
    if not found.empty:
        caption = f"{board.metric} by context length and depth: {', '.join(dict.fromkeys(found['series']))}."
        yield "depth", caption, depth_figure(board, found)
    if has_steps(board):
        yield "steps", f"{board.metric} against training steps: {methods}.", steps_figure(board)
    for image in range(min([MAX_IMAGES, *(len(strip.truth) for strip in strips)]) if strips else 0):
        painted = ", ".join(strip.series for strip in strips)
        caption = f"Evaluation item {image + 1} as painted after growing context: {painted}."
        yield f"strip-{image + 1}", caption, strip_figure(board, strips, image)
    for standing in ranked:
        profile = profile_figure(board, standing)
        if profile is not None:
            names = [name for name in standing.table["series"] if name in board.series]
            caption = f"Effective length by threshold, {standing.title}: {', '.join(names)}{more}."
            yield f"profile-{standing.train_length}", caption, profile
    cost = cost_figure(board) if board.rank == 0 else None
    if cost is not None:
        yield "cost", f"Tokens per second in training and evaluation: {methods}.", cost


def _inline(paths: Sequence[Path]) -> str:
    """A figure as a data URI: its SVG or its PNG, whichever is smaller."""
    kinds = {".svg": "svg+xml", ".png": "png"}
    path = min((path for path in paths if path.suffix in kinds), key=lambda path: path.stat().st_size)
    return f"data:image/{kinds[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _board(board: Board, figures: list[dict[str, str]], ranked: list[Standing]) -> dict[str, Any]:
    return {
        "slug": board.slug,
        "title": board.title,
        "metric": board.metric,
        "notice": board.notice,
        "figures": figures,
        "standings": ranked,
        "tables": [_table(board, axis) for axis in AXES if not board.curve(axis).empty],
        "depths": _depth_tables(board),
    }


def _table(board: Board, axis: str) -> dict[str, Any]:
    """One line a length, one column a method: mean, interval, and the number of seeds where it is unusual."""
    curve = board.curve(axis)
    x = X_COLUMN[axis]
    values, low, high, seeds = (pivot(curve, name, x) for name in ("value", "low", "high", "num_seeds"))
    usual = int(curve["num_seeds"].mode().max())
    chance = curve.groupby(x)["chance"].mean()
    show = format_length if axis == "queries" else board.length
    lines, before = [], 0
    for length in values.columns:
        best = best_of(values[length], board.higher_is_better)
        shown = []
        column = (table[length].tolist() for table in (values, low, high, seeds))
        for name, value, least, most, count in zip(values.index, *column, strict=True):
            interval = ""
            if np.isfinite(value):
                interval = f"[{', '.join(format_value(end, value) for end in (least, most))}]"
                interval += f" ({count_of([count], 'seed')})" if count != usual else ""
            shown.append({"value": format_value(value), "interval": interval, "best": name == best})
        chances = format_value(chance[length])
        name = f"{show(before)}–{show(length)}" if axis == "position" else show(length)
        lines.append({"length": name, "cells": shown, "chance": chances})
        before = length
    return {
        "title": f"{board.metric} by {AXES[axis]}",
        "corner": "queries" if axis == "queries" else board.length_unit,
        "series": list(values.index),
        "lines": lines,
        "note": f"Mean and 95 % interval over {count_of([usual], 'seed')} and the evaluation items, "
        f"unless said otherwise; {board.direction}, the best of a line is bold.{_wilson_note(board)}",
    }


def _wilson_note(board: Board) -> str:
    if not board.is_binary:
        return ""
    return " Items are right or wrong: an interval is at least Wilson’s, see “Interval”."


def _depth_tables(board: Board) -> list[dict[str, Any]]:
    """One table a method of the depths × lengths that the heat map shows, with intervals."""
    tables = []
    found = depth_cells(board)
    for series, mine in found.groupby("series", sort=False):
        lengths, cells = sorted(mine["eval_length"].unique()), mine.set_index(["depth", "eval_length"])
        lines = []
        for depth in sorted(mine["depth"].unique()):
            shown = []
            for length in lengths:
                cell = cells.loc[(depth, length)] if (depth, length) in cells.index else None
                shown.append(
                    {"value": NOTHING, "interval": ""}
                    if cell is None
                    else {
                        "value": format_value(cell["value"]),
                        "interval": f"[{format_value(cell['low'])}, {format_value(cell['high'])}]",
                    }
                )
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


def _summary(results: Results) -> str:
    rows = results.rows
    made = rows["created_at"].max()
    return (
        f"{rows['cell'].nunique()} cells: tasks {', '.join(sorted(rows['task'].unique()))}; methods "
        f"{', '.join(sorted(rows['label'].unique()))}. Newest result: {made}."
    )


def _definitions(boards: Sequence[Board]) -> dict[str, str]:
    metrics = {}
    for board in boards:
        best = f"{board.points['best'].mean():g}"
        mean = "averaged over queries, items and seeds"
        if board.combine == "exp_mean":
            mean = "the exponential of the mean over items, averaged over seeds"
        metrics[f"{board.metric} ({board.task})"] = (
            f"{'The headline metric' if board.rank == 0 else 'A metric'} of the task, {mean}; "
            f"{board.direction}, the best possible value is {best}."
        )
    return metrics | DEFINITIONS
