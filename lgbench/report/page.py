"""Write the report: figures for papers, and one HTML page that needs nothing but itself."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, Template
from matplotlib.figure import Figure

from lgbench.claims import all_claims
from lgbench.claims.cells import Cells
from lgbench.claims.render import decided_lines
from lgbench.report import interactive
from lgbench.report.answer import answers
from lgbench.report.budget import cost_figures, has_steps, steps_figure
from lgbench.report.curves import Board, Results, load
from lgbench.report.figures import curve_figure
from lgbench.report.headline import chosen, headline_figure
from lgbench.report.heatmap import depth_cells, depth_figure
from lgbench.report.leaderboard import DEFINITIONS
from lgbench.report.matrix import matrix
from lgbench.report.profile import profile_figure
from lgbench.report.standings import Standing, drawn, standings
from lgbench.report.strips import MAX_IMAGES, Strip, read_strips, strip_figure
from lgbench.report.style import KINDS, save
from lgbench.report.trace import command, read_environments, trace_cells
from lgbench.report.training import Losses, read_trainings, training_figure
from lgbench.report.value_tables import AXES, depth_tables, value_table
from lgbench.report.wording import count_of
from lgbench.safe_text import plain
from lgbench.stats.ranking import ROLES
from lgbench.store import atomic_file

MOST_DRAWN = 20
"""Series in the figures of a board; tables have all."""
MOST_LINES = 10
"""Series in one figure, where they could be told apart by training length."""


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


def build_report(roots: Sequence[Path], out: Path, *, figures: bool = False) -> ReportResult:
    """Write OUT/index.html and OUT/figures/; the same rows give the same bytes.

    Args:
        roots: results folders.
        out: folder to write to; files of an earlier report are replaced.
        figures: write figures as PNG and PDF, too; without, as SVG alone.

    Raises:
        UserError: a results folder does not exist, there are no results, or `out` cannot be written.
    """
    results = load(roots)
    out, live = Path(out), interactive.is_available()
    kinds = KINDS if figures else ("svg",)
    boards, paths, found, specs = [], list[Path](), [], dict[str, str]()
    for board in results.boards:
        shown = []
        strips = read_strips(roots, board, results.warnings) if board.rank == 0 else []
        ranked = standings(board)
        found.append((board, ranked))
        losses = read_trainings(roots, board, results.warnings) if board.rank == 0 else {}
        for name, caption, figure, part in _figures(board, strips, ranked, losses):
            entry, written = _static(figure, out / "figures" / f"{board.slug}-{name}", caption, kinds)
            paths += written
            if live and part is not None:
                entry |= _interactive(part, name.partition("-")[0], entry["stem"], specs)
            shown.append(entry)
        boards.append(_board(board, shown, ranked))
    first, written = _first_figure(found, out, kinds)
    notices = sorted(set(results.rows["notice"]) - {""})
    provenance = trace_cells(results.rows)
    claims = decided_lines(all_claims(), Cells(results.rows))
    page = _template().render(
        title="Length generalization: results of lgbench",
        summary=_summary(results),
        notices=notices,
        warnings=[warning for warning in results.warnings if warning not in notices],
        answers=answers(results.boards),
        matrix=matrix(found),
        baseline=ROLES["baseline"],
        headline=first,
        boards=boards,
        missing=results.missing.to_dict("records"),
        claims=claims,
        verdicts=Counter(line["verdict"] for line in claims),
        provenance=provenance,
        rows=_script_json([list(line.values()) for line in provenance]),
        environments=read_environments(roots, results.rows),
        definitions=_definitions(results.boards),
        specs=specs,
        libraries=interactive.libraries() if live else {},
        **_texts("page.css", "page.js"),
    )
    target = out / "index.html"
    with atomic_file(target) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return ReportResult(html=target, results=results, figures=written + paths, warnings=results.warnings)


def _template() -> Template:
    jinja = Environment(
        autoescape=True, finalize=_shown, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return jinja.from_string(_texts("page.jinja")["page_jinja"])


def _texts(*names: str) -> dict[str, str]:
    """Files beside this one: "page.css" as `page_css`."""
    folder = files("lgbench.report")
    return {name.replace(".", "_"): folder.joinpath(name).read_text(encoding="utf-8") for name in names}


def _script_json(data: Any) -> str:
    """Data that a script element can hold, whatever texts it has."""
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")


def _static(
    figure: Figure, stem: Path, caption: str, kinds: Sequence[str]
) -> tuple[dict[str, Any], list[Path]]:
    """A figure for the page, and the files that it was saved in."""
    written = save(figure, stem, kinds)
    svg = stem.with_name(f"{stem.name}.svg").read_bytes()
    data = f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"
    return {"data": data, "caption": caption, "stem": stem.name, "kinds": kinds, "charts": []}, written


def _interactive(board: Board, axis: str, stem: str, specs: dict[str, str]) -> dict[str, Any]:
    """What the page needs to draw a figure anew; the charts themselves go into `specs`."""
    charts = []
    for index, spec in enumerate(interactive.curve_charts(board, axis)):
        name = f"spec-{stem}-{index}"
        specs[name] = _script_json(spec)
        words = f"{board.metric} against {AXES[axis]}" if index == 0 else f"difference to {ROLES['baseline']}"
        charts.append({"spec": name, "title": words, **spec["usermeta"]})
    drawn_lines = set(board.curve(axis)["series"])
    legend = [(name, interactive.swatch(look)) for name, look in board.styles.items() if name in drawn_lines]
    return {"charts": charts, "legend": legend, "command": command(board)}


def _first_figure(
    found: Sequence[tuple[Board, Sequence[Standing]]], out: Path, kinds: Sequence[str]
) -> tuple[dict[str, Any] | None, list[Path]]:
    boards = chosen(found)
    if not boards:
        return None, []
    caption = "Headline curves: " + ", ".join(board.task.replace("_", " ") for board in boards) + "."
    return _static(headline_figure(boards), out / "figures" / "headline", caption, kinds)


def _shown(value: Any) -> Any:
    """What the page says of a value: text without hidden characters; markup of our own is left alone."""
    return plain(value, lines=True) if type(value) is str else value


def _legible(board: Board, axis: str) -> Iterable[tuple[str, Board]]:
    """Name and content of each figure along an axis: one, or one a training length where lines are many."""
    curve = board.curve(axis)
    lengths = sorted(curve["train_length"].unique())
    if not curve.empty and (len(lengths) == 1 or curve["series"].nunique() <= MOST_LINES):
        yield axis, board
    else:
        for length in lengths:
            part = board.only(curve.loc[curve["train_length"] == length, "series"].tolist())
            if not part.curve(axis).empty:
                yield f"{axis}-{length}", part


def _figures(
    board: Board, strips: Sequence[Strip], ranked: Sequence[Standing], losses: Losses
) -> Iterable[tuple[str, str, Figure, Board | None]]:
    """Name, caption, figure, and of curves what is drawn in them, one at a time."""
    board, more = drawn(board, ranked, MOST_DRAWN)
    methods = ", ".join(board.series) + more
    for axis, words in AXES.items():
        for name, part in _legible(board, axis):
            shown = ", ".join(dict.fromkeys(part.curve(axis)["series"])) + more
            yield name, f"{board.metric} against {words}: {shown}.", curve_figure(part, axis), part
    found = depth_cells(board)
    if not found.empty:
        caption = f"{board.metric} by context length and depth: {', '.join(dict.fromkeys(found['series']))}."
        yield "depth", caption, depth_figure(board, found), None
    if has_steps(board):
        yield "steps", f"{board.metric} against training steps: {methods}.", steps_figure(board), None
    if losses.keys() & {*board.series}:
        yield (
            "training",
            f"Training loss against steps: {', '.join(losses)}.",
            training_figure(board, losses),
            None,
        )
    for image in range(min([MAX_IMAGES, *(len(strip.truth) for strip in strips)]) if strips else 0):
        painted = ", ".join(strip.series for strip in strips)
        caption = f"Evaluation item {image + 1} as painted after growing context: {painted}."
        yield f"strip-{image + 1}", caption, strip_figure(board, strips, image), None
    for standing in ranked:
        profile = profile_figure(board, standing)
        if profile is not None:
            names = [name for name in standing.table["series"] if name in board.series]
            caption = f"Effective length by threshold, {standing.title}: {', '.join(names)}{more}."
            yield f"profile-{standing.train_length}", caption, profile, None
    for name, device, cost in cost_figures(board) if board.rank == 0 else ():
        yield name, f"Tokens per second in training and evaluation on {device}: {methods}.", cost, None


def _board(board: Board, figures: list[dict[str, str]], ranked: list[Standing]) -> dict[str, Any]:
    return {
        "slug": board.slug,
        "title": board.title,
        "metric": board.metric,
        "notice": board.notice,
        "figures": figures,
        "standings": ranked,
        "short": _short(board),
        "command": command(board),
        "tables": [value_table(board, axis) for axis in AXES if not board.curve(axis).empty],
        "depths": depth_tables(board),
    }


def _short(board: Board) -> str:
    """A name for the navigation: task, and the metric unless it is the headline."""
    task = board.title.partition(", data")[0].replace("_", " ")
    return task if board.rank == 0 else f"{task}: {board.metric}"


def _summary(results: Results) -> str:
    rows = results.rows
    made = rows["created_at"].max()
    return (
        f"{count_of([rows['cell'].nunique()], 'cell')}, {count_of([rows['task'].nunique()], 'task')}, "
        f"{count_of([rows['label'].nunique()], 'method')}. Newest result: {made[:10]}."
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
