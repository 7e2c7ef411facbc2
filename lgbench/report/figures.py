"""Draw a metric against evaluation length, number of queries or position, one line a method, for a paper."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from lgbench.report.curves import Board
from lgbench.report.series import SERIES, TRAIN_LENGTHS, TRAIN_NUMBERS, name_series
from lgbench.report.style import GREY, ROLE_LOOKS, SHADE, Styles, compose, length_axis, looks, new_figure
from lgbench.report.vertical import (
    ARROWS,
    X_COLUMN,
    Range,
    draw_references,
    label_references,
    mark_clipped,
    set_vertical,
    tell_clipped,
    tell_unseen,
    vertical_range,
)
from lgbench.report.wording import count_of, unit_in_words
from lgbench.stats.ranking import ROLES

HEIGHT_IN = 2.7
"""Height of a panel, inches."""
NUM_WHISKERS = 4
"""Intervals drawn of a line; at every length they would hide one another."""
TRAINED_THERE = ("o", "s", "^", "D")
"""Markers of the lines of `draw_trained_there`."""
_X_LABEL = {
    "context": "context length ({unit})",
    "queries": "number of queries (K = 1,024)",
    "position": "position in the context ({unit})",
}


def curve_figure(board: Board, axis: str) -> Figure:
    """The metric at the end of training along an axis, of all methods of a board.

    Lines are means over seeds and items, whiskers 95 % intervals. Chance and the best possible value are
    drawn and named; the most common training range is shaded, another one ends in a dash of its colour. Where
    a method was trained at several lengths, a dashed line joins what it reached at the length that it
    was trained on. A curve that leaves the axis is clipped, marked by arrows, and its extreme is told in the
    footer. Along the context a second panel shows differences to the baseline.

    Args:
        board: the comparison.
        axis: "context", "queries", or "position": tokens between neighbouring evaluation lengths, in steps.
    """
    curve = board.curve(axis)
    x = X_COLUMN[axis]
    limits = vertical_range(curve, board.higher_is_better, board.combine)
    beside = board.beside if axis == "context" else pd.DataFrame()
    with looks():
        figure, panels = new_figure(1 if beside.empty else 2)
        axes = panels[0]
        unit = "tokens" if axis == "queries" else board.length_unit
        label = _X_LABEL[axis].format(unit=unit_in_words(unit))
        for panel in panels:
            length_axis(panel, curve[x].tolist(), label if panel is panels[-1] else "", unit)
        draw = draw_stairs if axis == "position" else draw_lines
        handles = draw(axes, curve, x, board.styles)
        set_vertical(axes, limits, board)
        outside = mark_clipped(axes, curve, x, limits, board.styles)
        if axis == "context":
            handles += draw_trained_there(axes, curve)
        if axis != "queries":
            handles += shade_training(axes, curve, board)
        ends = draw_references(axes, curve, x, limits)
        if not beside.empty:
            _draw_relative(panels[1], beside, board)
        compose(
            figure,
            panels,
            height_in=HEIGHT_IN if beside.empty else 0.8 * HEIGHT_IN,
            columns=1,
            footer=[*describe(board, curve), *_footer(board, curve, axis, limits, outside, beside)],
            notice=board.notice,
            handles=handles,
            top_in=HEIGHT_IN * ARROWS * outside["series"].nunique(),
            right_in=label_references(axes, ends, limits, HEIGHT_IN),
        )
    return figure


def _footer(
    board: Board, curve: pd.DataFrame, axis: str, limits: Range, outside: pd.DataFrame, beside: pd.DataFrame
) -> Iterable[str]:
    """What is particular to an axis, and what cannot be seen."""
    yield tell_clipped(outside, axis, "tokens" if axis == "queries" else board.length_unit)
    if axis == "context":
        yield f"{count_of(curve['num_queries'], 'prediction')} an item."
    elif axis == "queries":
        one = board.length_unit.removesuffix("s")
        yield f"{count_of(curve['eval_length'], f'context {one}')}."
    elif axis == "position":
        yield "Each step: the tokens from one evaluation length to the next."
    yield tell_unseen(curve, limits)
    if not beside.empty:
        yield (
            f"Lower panel: score (0 at chance, 1 at best) minus that of {ROLES['baseline']} on the same "
            "seeds and items."
        )


def _draw_relative(axes: Axes, beside: pd.DataFrame, board: Board) -> None:
    """Differences to the baseline, above zero where a method is better; the axis ends at ± 1 at most."""
    axes.axhline(0, color="black", linewidth=1.2, zorder=2)
    draw_lines(axes, beside, "eval_length", board.styles)
    drawn = beside[["value", "low", "high"]].clip(-1, 1)
    low, high = min(drawn.min().min(), -0.05), max(drawn.max().max(), 0.05)
    axes.set_ylim(low - 0.06 * (high - low), high + 0.06 * (high - low))
    axes.set_ylabel(f"score − {ROLES['baseline']}")


def draw_lines(axes: Axes, points: pd.DataFrame, x: str, styles: Styles) -> list[Line2D]:
    """Mean of each series along column `x`, with whiskers. Returns the entries of the legend."""
    handles, whiskers = [], []
    lines = dict(iter(points.groupby("series", sort=False)))
    for name, style in styles.items():
        if name not in lines:
            continue
        line = lines[name].sort_values(x)
        whiskers.append(_whiskers(line[x].to_numpy(float) * _aside(name, styles), line, style))
        axes.plot(line[x], line["value"], zorder=_level(style), **style)
        handles.append(Line2D([], [], label=name, **style))
    _draw_whiskers(axes, whiskers)
    return handles


def draw_stairs(axes: Axes, points: pd.DataFrame, x: str, styles: Styles) -> list[Line2D]:
    """Like `draw_lines`, of values that belong to all of the way from one length to the next."""
    handles, whiskers = [], []
    left = axes.get_xlim()[0]
    for name, style in styles.items():
        line = points[points["series"] == name].sort_values(x)
        if line.empty:
            continue
        ends = [left, *line[x]]
        value = [line["value"].iloc[0], *line["value"]]
        axes.plot(ends, value, drawstyle="steps-pre", zorder=_level(style), **style | {"marker": ""})
        middles = np.array([(a * b) ** 0.5 for a, b in itertools.pairwise(ends)])
        whiskers.append(_whiskers(middles, line, style))
        axes.plot(middles, line["value"], zorder=_level(style), **style | {"linestyle": ""})
        handles.append(Line2D([], [], label=name, **style))
    _draw_whiskers(axes, whiskers)
    return handles


def _whiskers(xs: NDArray[np.float64], line: pd.DataFrame, style: Mapping[str, Any]) -> pd.DataFrame:
    """95 % intervals at `NUM_WHISKERS` points of a line, spread evenly over what is beyond its training.

    Returns:
        columns `x`, `low`, `high`, `colour` and `level`.
    """
    first = 0
    if "train_high" in line and line["step"].nunique() == 1:
        first = min(int((line["eval_length"] < line["train_high"]).sum()), len(line) - NUM_WHISKERS)
    at = np.unique(np.linspace(max(first, 0), len(line) - 1, NUM_WHISKERS).round().astype(int))
    value, low, high = (line[name].to_numpy(float)[at] for name in ("value", "low", "high"))
    ends = {"low": np.minimum(low, value), "high": np.maximum(high, value)}
    known = {"x": xs[at], **ends, "colour": style["color"], "level": _level(style) - 0.5}
    return pd.DataFrame(known).dropna(subset=["low", "high"])


def _draw_whiskers(axes: Axes, whiskers: Sequence[pd.DataFrame]) -> None:
    """All intervals of a panel at once, those of the baseline above the others."""
    for level, some in pd.concat(whiskers).groupby("level") if whiskers else ():
        look = {"color": some["colour"], "alpha": 0.8, "zorder": level}
        axes.vlines(some["x"], some["low"], some["high"], linewidth=0.9, **look)
        for end in ("low", "high"):
            axes.scatter(some["x"], some[end], s=16, marker="_", linewidth=0.9, **look)


def _aside(name: str, styles: Styles) -> float:
    """A factor that sets the whiskers of a line beside those of others at the same length."""
    return float(2 ** (0.36 * ([*styles].index(name) / max(1, len(styles) - 1) - 0.5)))


def _level(style: Mapping[str, Any]) -> float:
    """Drawn above others: the baseline, which everything is compared with."""
    return 4 if style["color"] == ROLE_LOOKS["baseline"][0] else 3


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
    ranges = curve.drop_duplicates("series").set_index("series")[["train_low", "train_high"]]
    low, high = ranges.value_counts().sort_index().idxmax()
    left, right = axes.get_xlim()
    start = left if low <= curve["eval_length"].min() else low
    axes.axvspan(start, min(high, right), color=SHADE, zorder=0, linewidth=0 if low < high else 3)
    words = "–".join(dict.fromkeys(map(board.length, (low, high))))
    handles: list[Patch | Line2D] = [Patch(color=SHADE, label=f"training range {words}")]
    others = ranges[(ranges["train_low"] != low) | (ranges["train_high"] != high)]
    for name, ends in others.iterrows():
        colour = board.styles[str(name)]["color"]
        for end, common in ((ends["train_low"], low), (ends["train_high"], high)):
            if end != common and left <= end <= right:
                across = axes.get_xaxis_transform()
                axes.plot([end, end], [0, 0.07], transform=across, color=colour, linewidth=2, zorder=4)
    if len(others):
        dash = {"linestyle": "none", "marker": "|", "markersize": 8, "markeredgewidth": 2, "color": GREY}
        handles.append(Line2D([], [], label="end of another training range", **dash))
    return handles


def describe(board: Board, points: pd.DataFrame) -> list[str]:
    """The footer: which data, how many seeds, items and steps, and what the whiskers are."""
    several = bool(points["num_seeds"].max() > 1)
    return [
        f"Task: {board.title}.",
        f"{count_of(points['num_seeds'], 'seed')}, {count_of(points['num_items'], 'evaluation item')}, "
        f"{count_of(points['step'], 'training step')}.",
        f"Whiskers: 95 % intervals over {'seeds and ' * several}items"
        f"{', at least Wilson’s of the distinct items' * board.is_binary}.",
    ]
