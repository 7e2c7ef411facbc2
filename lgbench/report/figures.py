"""Draw a metric against evaluation length (or number of queries), one line a method, as a paper would print it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.transforms import blended_transform_factory

from lgbench.report.curves import Board, format_length
from lgbench.report.style import GREY, SHADE, compose, length_axis, line_style, looks, new_figure
from lgbench.report.tables import format_value

BEYOND_CHANCE = 0.5
"""The vertical axis ends at this share of the way from best to chance, on the far side of chance."""
_HEIGHT_IN = 2.7
_X = {"context": "eval_length", "queries": "num_queries"}
_X_LABELS = {
    "context": "evaluation length (context tokens, K = 1,024)",
    "queries": "number of queries (K = 1,024)",
}


@dataclass(frozen=True, slots=True)
class Range:
    """Vertical axis: limits as drawn, the value beyond which curves are clipped, and whether it is logarithmic."""

    bottom: float
    top: float
    worst: float
    is_log: bool


def curve_figure(board: Board, axis: str) -> Figure:
    """The metric at the end of training along `axis` ("context" or "queries"), of all methods of a board.

    Lines are means over seeds and items, bands 95 % bootstrap intervals. Chance and the best possible value
    are drawn and named; the most common training range is shaded, the others end in a dash of the method's
    colour. A curve that leaves the axis is clipped, marked by arrows, and its extreme is told in the footer.
    """
    curve = board.curve(axis)
    x = _X[axis]
    limits = vertical_range(curve, board.higher_is_better)
    with looks():
        figure, (axes,) = new_figure()
        handles, beyond = [], []
        for index, name in enumerate(board.series):
            points = curve[curve["series"] == name]
            if points.empty:
                continue
            handles.append(draw_line(axes, points, x, name, index))
            beyond += mark_clipped(axes, points, x, name, limits, board.higher_is_better)
        length_axis(axes, curve[x].tolist(), _X_LABELS[axis])
        set_vertical(
            axes, limits, f"{board.metric} ({'higher' if board.higher_is_better else 'lower'} is better)"
        )
        footer = [*describe(board, curve), *_fixed(curve, axis), *beyond]
        if axis == "context":
            handles += shade_training(axes, curve, board.series)
        names = draw_references(axes, curve, x, limits)
        compose(
            figure,
            [axes],
            height_in=_HEIGHT_IN,
            footer=footer,
            notice=board.notice,
            handles=handles,
            right_in=label_references(axes, names, limits),
        )
    return figure


def vertical_range(curve: pd.DataFrame, higher_is_better: bool) -> Range:
    """From the best possible value to the worst drawn one, at most `BEYOND_CHANCE` further than chance.

    Logarithmic for errors that come within a thirtieth of chance of a best value of 0.
    """
    sign = 1 if higher_is_better else -1
    chance, best = curve["chance"].mean(), curve["best"].mean()
    drawn = pd.concat([curve["value"], curve["low"], curve["high"]])
    worst_allowed = chance - sign * BEYOND_CHANCE * abs(chance - best)
    extreme = drawn.min() if higher_is_better else drawn.max()
    worst = sign * max(sign * worst_allowed, min(sign * extreme, sign * chance))
    smallest = drawn[drawn > 0].min()
    if not higher_is_better and best == 0 and smallest < chance / 30:
        return Range(smallest / 1.5, worst * 1.2, worst_allowed, True)
    pad = 0.05 * abs(worst - best) or 0.5
    low, high = min(best, worst), max(best, worst)
    return Range(
        low - pad * (0.5 if low == best else 1),
        high + pad * (0.5 if high == best else 1),
        worst_allowed,
        False,
    )


def set_vertical(axes: Axes, limits: Range, label: str) -> None:
    """Apply a range to the vertical axis."""
    if limits.is_log:
        axes.set_yscale("log")
    axes.set_ylim(limits.bottom, limits.top)
    axes.set_ylabel(label)


def draw_line(axes: Axes, points: pd.DataFrame, x: str, name: str, index: int) -> Line2D:
    """One method: its mean and its band. Returns the entry of the legend."""
    style = line_style(index)
    points = points.sort_values(x)
    axes.fill_between(points[x], points["low"], points["high"], color=style["color"], alpha=0.18, linewidth=0)
    sns.lineplot(
        data=points, x=x, y="value", estimator=None, ax=axes, legend=False, zorder=3 + index / 100, **style
    )
    return Line2D([], [], label=name, **style)


def mark_clipped(
    axes: Axes, points: pd.DataFrame, x: str, name: str, limits: Range, higher_is_better: bool
) -> list[str]:
    """Arrows at the edge where the mean is off the axis, and a sentence that tells how far it goes."""
    outside = points[
        (points["value"] < limits.bottom) if higher_is_better else (points["value"] > limits.top)
    ]
    if outside.empty:
        return []
    colour = line_style(0)["color"] if axes.lines == [] else axes.lines[-1].get_color()
    axes.plot(
        outside[x],
        [-0.02 if higher_is_better else 1.02] * len(outside),
        transform=blended_transform_factory(axes.transData, axes.transAxes),
        marker="v" if higher_is_better else "^",
        markersize=4,
        linestyle="none",
        color=colour,
        clip_on=False,
        zorder=5,
    )
    worst = outside.loc[outside["value"].idxmin() if higher_is_better else outside["value"].idxmax()]
    return [f"Off the axis (arrows): {name}, {format_value(worst['value'])} at {format_length(worst[x])}."]


def shade_training(axes: Axes, curve: pd.DataFrame, order: list[str]) -> list[Patch | Line2D]:
    """Shade the most common training range; a dash on the axis where that of another method ends."""
    ranges = curve.drop_duplicates("series").set_index("series")[["train_low", "train_high"]]
    low, high = ranges.value_counts().sort_index().idxmax()
    left, right = axes.get_xlim()
    axes.axvspan(
        left if low <= curve["eval_length"].min() else low,
        min(high, right),
        color=SHADE,
        zorder=0,
        linewidth=0,
    )
    handles = [Patch(color=SHADE, label=f"training range {format_length(low)}–{format_length(high)}")]
    across = axes.get_xaxis_transform()
    others = ranges[(ranges["train_low"] != low) | (ranges["train_high"] != high)]
    for name, other in others.iterrows():
        for end, common in ((other["train_low"], low), (other["train_high"], high)):
            if end != common and left <= end <= right:
                colour = line_style(order.index(str(name)))["color"]
                axes.plot([end, end], [0, 0.07], transform=across, color=colour, linewidth=2, zorder=4)
    if len(others):
        dash = Line2D([], [], color=GREY, linestyle="none", marker="|", markersize=8, markeredgewidth=2)
        dash.set_label("end of a different training range")
        handles.append(dash)
    return handles


def draw_references(axes: Axes, curve: pd.DataFrame, x: str, limits: Range) -> dict[str, float]:
    """Lines of the best possible value and of answers that ignore the context. Returns name → value at the right."""
    ends = {}
    chance = curve.groupby(x)["chance"].mean()
    for name, value in sorted(
        {name: value for found in curve["references"] for name, value in found.items()}.items()
    ):
        if limits.bottom < value < limits.top and not np.isclose(value, chance.iloc[-1]):
            axes.axhline(value, color=GREY, linewidth=0.7, linestyle=":", zorder=1)
            ends[name.replace("_", " ")] = value
    left, right = axes.get_xlim()
    axes.plot(
        [left, *chance.index, right], [chance.iloc[0], *chance, chance.iloc[-1]], color="black", lw=1, ls="--"
    )
    ends["chance"] = chance.iloc[-1]
    best = curve["best"].mean()
    if limits.bottom < best < limits.top:
        axes.axhline(best, color=GREY, linewidth=0.8, zorder=1)
        ends["best possible"] = best
    return ends


def label_references(axes: Axes, ends: dict[str, float], limits: Range) -> float:
    """Name the reference lines at the right edge, moved apart where they would overlap.

    Returns:
        the room that the labels take, inches.
    """

    def height(value: float) -> float:
        low, high, value = (
            np.log([limits.bottom, limits.top, value])
            if limits.is_log
            else (limits.bottom, limits.top, value)
        )
        return float((value - low) / (high - low))

    gap = 0.125 / _HEIGHT_IN
    names = sorted(ends, key=ends.__getitem__)
    placed = spread([height(ends[name]) for name in names], gap)
    across = blended_transform_factory(axes.transAxes, axes.transAxes)
    widest = 0.0
    for name, at in zip(names, placed, strict=True):
        true = height(ends[name])
        axes.plot(
            [1, 1.015, 1.03], [true, true, at], transform=across, clip_on=False, color=GREY, linewidth=0.6
        )
        label = axes.text(
            1.035,
            at,
            f"{name} {ends[name]:.3g}",
            transform=across,
            fontsize=7,
            va="center",
            color="black" if name == "chance" else GREY,
        )
        widest = max(widest, label.get_window_extent().width / axes.figure.dpi)
    return widest + 0.3


def spread(heights: list[float], gap: float) -> list[float]:
    """Increasing heights moved apart to at least `gap`, groups staying centred on where they belong."""
    groups = [[height, 1] for height in heights]
    merged: list[list[float]] = []
    for centre, size in groups:
        merged.append([centre, size])
        while len(merged) > 1:
            (below, n), (above, m) = merged[-2:]
            if above - below >= gap * (n + m) / 2 - 1e-9:
                break
            merged[-2:] = [[(below * n + above * m) / (n + m), n + m]]
    return [centre + gap * (k - (size - 1) / 2) for centre, size in merged for k in range(int(size))]


def describe(board: Board, curve: pd.DataFrame) -> list[str]:
    """The footer: which data, how many seeds, items and steps, and what the bands are."""
    sources = {
        "seeds": _span(curve["num_seeds"]),
        "items": _span(curve["num_items"]),
        "steps": _span(curve["step"]),
    }
    seeds = f"{sources['seeds']} seed{'s' * (sources['seeds'] != '1')}"
    return [
        f"{board.title[0].upper()}{board.title[1:]}.",
        f"{seeds}, {sources['items']} evaluation items, {sources['steps']} training steps.",
        f"Bands: 95 % bootstrap intervals over {'seeds and ' * (sources['seeds'] != '1')}items.",
    ]


def _fixed(curve: pd.DataFrame, axis: str) -> list[str]:
    if axis == "context":
        return [f"{_span(curve['num_queries'])} queries."]
    return [
        f"Context of {', '.join(format_length(v) for v in sorted(curve['eval_length'].unique()))} tokens."
    ]


def _span(values: pd.Series) -> str:
    low, high = int(values.min()), int(values.max())
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"
