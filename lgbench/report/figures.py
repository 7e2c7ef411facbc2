"""Draw a metric against evaluation length or number of queries, one line a method, ready for a paper."""

from __future__ import annotations

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from lgbench.report.curves import Board
from lgbench.report.style import GREY, SHADE, compose, length_axis, line_style, looks, new_figure
from lgbench.report.vertical import (
    ARROWS,
    X_COLUMN,
    draw_references,
    label_references,
    mark_clipped,
    set_vertical,
    tell_clipped,
    vertical_range,
)
from lgbench.report.wording import count_of, format_length

HEIGHT_IN = 2.7
"""Height of a panel, inches."""
_X_LABEL = {
    "context": "evaluation length (context tokens, K = 1,024)",
    "queries": "number of queries (K = 1,024)",
}


def curve_figure(board: Board, axis: str) -> Figure:
    """The metric at the end of training along `axis` ("context" or "queries"), of all methods of a board.

    Lines are means over seeds and items, bands 95 % bootstrap intervals. Chance and the best possible value
    are drawn and named; the most common training range is shaded, another one ends in a dash of the method's
    colour.
    A curve that leaves the axis is clipped, marked by arrows, and its extreme is told in the footer.
    """
    curve = board.curve(axis)
    x = X_COLUMN[axis]
    limits = vertical_range(curve, board.higher_is_better)
    with looks():
        figure, (axes,) = new_figure()
        handles = draw_lines(axes, curve, x, board.series)
        length_axis(axes, curve[x].tolist(), _X_LABEL[axis])
        set_vertical(axes, limits, board)
        outside = mark_clipped(axes, curve, x, limits, board.series)
        if axis == "context":
            handles += shade_training(axes, curve, board.series)
        ends = draw_references(axes, curve, x, limits)
        footer = [*describe(board, curve), tell_clipped(outside, axis)]
        if axis == "context":
            footer.append(f"{count_of(curve['num_queries'], 'query', 'queries')}.")
        else:
            footer.append(f"{count_of(curve['eval_length'], 'context token')}.")
        if limits.is_log:
            footer.append(f"The best possible value, {curve['best'].mean():g}, is below the axis.")
        compose(
            figure,
            [axes],
            height_in=HEIGHT_IN,
            footer=footer,
            notice=board.notice,
            handles=handles,
            top_in=HEIGHT_IN * ARROWS * outside["series"].nunique(),
            right_in=label_references(axes, ends, limits, HEIGHT_IN),
        )
    return figure


def draw_lines(axes: Axes, points: pd.DataFrame, x: str, order: list[str]) -> list[Line2D]:
    """Mean and band of each series along column `x`. Returns the entries of the legend."""
    handles = []
    for index, name in enumerate(order):
        line = points[points["series"] == name].sort_values(x)
        if line.empty:
            continue
        style = line_style(index)
        axes.fill_between(line[x], line["low"], line["high"], color=style["color"], alpha=0.18, linewidth=0)
        sns.lineplot(data=line, x=x, y="value", estimator=None, ax=axes, legend=False, zorder=3, **style)
        handles.append(Line2D([], [], label=name, **style))
    return handles


def shade_training(axes: Axes, curve: pd.DataFrame, order: list[str]) -> list[Patch | Line2D]:
    """Shade the most common training range, and mark by a dash where that of another method ends."""
    ranges = curve.drop_duplicates("series").set_index("series")[["train_low", "train_high"]]
    low, high = ranges.value_counts().sort_index().idxmax()
    left, right = axes.get_xlim()
    start = left if low <= curve["eval_length"].min() else low
    axes.axvspan(start, min(high, right), color=SHADE, zorder=0, linewidth=0)
    handles: list[Patch | Line2D] = [
        Patch(color=SHADE, label=f"training range {format_length(low)}–{format_length(high)}")
    ]
    others = ranges[(ranges["train_low"] != low) | (ranges["train_high"] != high)]
    for name, ends in others.iterrows():
        colour = line_style(order.index(str(name)))["color"]
        for end, common in ((ends["train_low"], low), (ends["train_high"], high)):
            if end != common and left <= end <= right:
                across = axes.get_xaxis_transform()
                axes.plot([end, end], [0, 0.07], transform=across, color=colour, linewidth=2, zorder=4)
    if len(others):
        dash = {"linestyle": "none", "marker": "|", "markersize": 8, "markeredgewidth": 2, "color": GREY}
        handles.append(Line2D([], [], label="end of another training range", **dash))
    return handles


def describe(board: Board, points: pd.DataFrame) -> list[str]:
    """The footer: which data, how many seeds, items and steps, and what the bands are."""
    several = bool(points["num_seeds"].max() > 1)
    return [
        f"Task: {board.title}.",
        f"{count_of(points['num_seeds'], 'seed')}, {count_of(points['num_items'], 'evaluation item')}, "
        f"{count_of(points['step'], 'training step')}.",
        f"Bands: 95 % bootstrap intervals over {'seeds and ' * several}items.",
    ]
