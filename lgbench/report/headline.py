"""The first figure of a report: three tasks side by side, the baseline among the best methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lgbench.report.curves import Board
from lgbench.report.figures import HEIGHT_IN, draw_lines, shade_training
from lgbench.report.standings import Standing, drawn
from lgbench.report.style import compose, length_axis, looks, new_figure
from lgbench.report.vertical import draw_references, mark_clipped, set_vertical, vertical_range

NUM_TASKS = 3
MOST_LINES = 6
"""Of a panel."""


def chosen(found: Sequence[tuple[Board, Sequence[Standing]]]) -> list[Board]:
    """Up to `NUM_TASKS` boards, one a task, of one L_train each: those in which most methods are ranked."""
    best: dict[str, tuple[int, Board, Standing]] = {}
    for board, shown in found:
        for standing in shown if board.rank == 0 else ():
            num = int(standing.table["rank"].notna().sum())
            if num > 1 and num > best.get(board.task, (0,))[0]:
                best[board.task] = num, board, standing
    most = sorted(best.values(), key=lambda entry: -entry[0])[:NUM_TASKS]
    return [_part(board, standing) for _, board, standing in most]


def _part(board: Board, standing: Standing) -> Board:
    """The best series that are compared with one baseline, of each method one, named by their methods."""
    ranked = standing.table[standing.table["rank"].notna()]
    labels = board.rows.groupby("series")["label"].first()
    alike = ranked[ranked["baseline"] == ranked["baseline"].mode()[0]].assign(
        label=ranked["series"].map(labels)
    )
    best = replace(standing, table=alike.drop_duplicates("label"))
    part, _ = drawn(board.only(best.table["series"].tolist()), [best], MOST_LINES)
    return replace(part, rows=part.rows.assign(series=part.rows["label"]))


def headline_figure(boards: Sequence[Board]) -> Figure:
    """A panel a board, along the context; one legend for all, since a method looks the same everywhere."""
    with looks():
        figure, panels = new_figure(len(boards))
        handles: dict[str, Line2D] = {}
        for panel, board in zip(panels, boards, strict=True):
            curve = board.curve("context")
            limits = vertical_range(curve, board.higher_is_better, board.combine)
            length_axis(panel, curve["eval_length"].tolist(), board.length_unit, board.length_unit)
            few = panel.xaxis.get_majorticklocs()
            panel.xaxis.get_major_locator().locs = few[:: -(-len(few) // 5)]
            handles |= {
                line.get_label(): line for line in draw_lines(panel, curve, "eval_length", board.styles)
            }
            set_vertical(panel, limits, board)
            mark_clipped(panel, curve, "eval_length", limits, board.styles)
            shade_training(panel, curve, board)
            draw_references(panel, curve, "eval_length", limits)
            panel.set_ylabel("")
            arrow = "↑" if board.higher_is_better else "↓"
            panel.set_title(
                f"{board.task.replace('_', ' ')}: {board.metric} {arrow}", fontsize=8.5, loc="left"
            )
        compose(
            figure,
            panels,
            height_in=0.75 * HEIGHT_IN,
            gap_in=0.45,
            left_in=0.45,
            top_in=0.25,
            handles=list(handles.values()),
            footer=["Grey: training lengths. Dashed: chance. Whiskers: 95 % intervals over seeds and items."],
        )
    return figure
