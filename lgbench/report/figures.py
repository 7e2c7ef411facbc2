"""Draw a metric against evaluation length, number of queries or position, one line a method, for a paper."""

from __future__ import annotations

import itertools

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from lgbench.report.curves import Board
from lgbench.report.series import SERIES, TRAIN_LENGTHS, TRAIN_NUMBERS, name_series
from lgbench.report.style import GREY, SHADE, compose, length_axis, line_style, looks, new_figure
from lgbench.report.vertical import (
    ARROWS,
    X_COLUMN,
    draw_references,
    label_references,
    mark_clipped,
    set_vertical,
    tell_clipped,
    tell_unseen,
    vertical_range,
)
from lgbench.report.wording import count_of, unit_in_words

HEIGHT_IN = 2.7
"""Height of a panel, inches."""
TRAINED_THERE = ("o", "s", "^", "D")
"""Markers of the lines of `draw_trained_there`."""
_X_LABEL = {
    "context": "context length ({unit})",
    "queries": "number of queries (K = 1,024)",
    "position": "position in the context ({unit})",
}


def curve_figure(board: Board, axis: str) -> Figure:
    """The metric at the end of training along an axis, of all methods of a board.

    Lines are means over seeds and items, bands 95 % intervals. Chance and the best possible value are drawn
    and named; the most common training range is shaded, another one ends in a dash of the method's colour.
    Where a method was trained at several lengths, a dashed line joins what it reached at the length that it
    was trained on. A curve that leaves the axis is clipped, marked by arrows, and its extreme is told in the
    footer.

    Args:
        board: the comparison.
        axis: "context", "queries", or "position": tokens between neighbouring evaluation lengths, in steps.
    """
    curve = board.curve(axis)
    x = X_COLUMN[axis]
    limits = vertical_range(curve, board.higher_is_better, board.combine)
    with looks():
        figure, (axes,) = new_figure()
        unit = "tokens" if axis == "queries" else board.length_unit
        length_axis(axes, curve[x].tolist(), _X_LABEL[axis].format(unit=unit_in_words(unit)), unit)
        draw = draw_stairs if axis == "position" else draw_lines
        handles = draw(axes, curve, x, board.series)
        set_vertical(axes, limits, board)
        outside = mark_clipped(axes, curve, x, limits, board.series)
        if axis == "context":
            handles += draw_trained_there(axes, curve)
        if axis != "queries":
            handles += shade_training(axes, curve, board)
        ends = draw_references(axes, curve, x, limits)
        footer = [*describe(board, curve), tell_clipped(outside, axis, unit)]
        if axis == "context":
            footer.append(f"{count_of(curve['num_queries'], 'prediction')} an item.")
        elif axis == "queries":
            one = board.length_unit.removesuffix("s")
            footer.append(f"{count_of(curve['eval_length'], f'context {one}')}.")
        elif axis == "position":
            footer.append("Each step: the tokens from one evaluation length to the next.")
        footer.append(tell_unseen(curve, limits))
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


def draw_stairs(axes: Axes, points: pd.DataFrame, x: str, order: list[str]) -> list[Line2D]:
    """Like `draw_lines`, of values that belong to all of the way from one length to the next."""
    handles = []
    left = axes.get_xlim()[0]
    for index, name in enumerate(order):
        line = points[points["series"] == name].sort_values(x)
        if line.empty:
            continue
        style = line_style(index)
        ends = [left, *line[x]]
        low, value, high = ([line[column].iloc[0], *line[column]] for column in ("low", "value", "high"))
        axes.fill_between(ends, low, high, step="pre", color=style["color"], alpha=0.18, linewidth=0)
        axes.plot(ends, value, drawstyle="steps-pre", zorder=3, **style | {"marker": ""})
        middles = [(a * b) ** 0.5 for a, b in itertools.pairwise(ends)]
        axes.plot(middles, line["value"], zorder=3, **style | {"linestyle": ""})
        handles.append(Line2D([], [], label=name, **style))
    return handles


def draw_trained_there(axes: Axes, curve: pd.DataFrame) -> list[Line2D]:
    """Join what one method reaches at the lengths that it was trained on: what training itself can give.

    Drawn where runs of one method and size were evaluated at two training lengths or more. Their numbers of
    training (steps, batch, …) may differ, unless that would give two points at one length.
    """
    there = curve[curve["train_length"] == curve["eval_length"]]
    alike = there.assign(**dict.fromkeys([*TRAIN_LENGTHS, *TRAIN_NUMBERS], 0))
    if alike.duplicated([*SERIES, "eval_length"]).any():
        alike = there.assign(**dict.fromkeys(TRAIN_LENGTHS, 0))
    if alike.empty:
        return []
    names = name_series(alike.assign(length_unit="tokens"))
    handles: list[Line2D] = []
    for key, rows in alike.groupby(SERIES, sort=False):
        line = rows.sort_values("eval_length")
        if line["eval_length"].nunique() < 2:
            continue
        look = {"color": GREY, "linestyle": (0, (4, 2)), "linewidth": 1.6, "zorder": 4}
        look |= {"marker": TRAINED_THERE[len(handles) % len(TRAINED_THERE)], "markerfacecolor": "white"}
        axes.plot(line["eval_length"], line["value"], **look)
        handles.append(Line2D([], [], label=f"{names[key]}, trained at each length", **look))
    return handles


def shade_training(axes: Axes, curve: pd.DataFrame, board: Board) -> list[Patch | Line2D]:
    """Shade the most common training range, and mark by a dash where that of another method ends."""
    order = board.series
    ranges = curve.drop_duplicates("series").set_index("series")[["train_low", "train_high"]]
    low, high = ranges.value_counts().sort_index().idxmax()
    left, right = axes.get_xlim()
    start = left if low <= curve["eval_length"].min() else low
    axes.axvspan(start, min(high, right), color=SHADE, zorder=0, linewidth=0 if low < high else 3)
    words = "–".join(dict.fromkeys(map(board.length, (low, high))))
    handles: list[Patch | Line2D] = [Patch(color=SHADE, label=f"training range {words}")]
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
        f"Bands: 95 % intervals over {'seeds and ' * several}items, by bootstrap"
        f"{', at least Wilson’s of the distinct items' * board.is_binary}.",
    ]
