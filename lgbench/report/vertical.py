"""The vertical axis of a figure: its range, what is clipped by it, and the lines of chance and best."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter
from matplotlib.transforms import blended_transform_factory

from lgbench.report.curves import Board
from lgbench.report.style import GREY, Styles
from lgbench.report.wording import format_length, format_power, format_value

BEYOND_CHANCE = 0.5
"""How far beyond chance the axis may reach, as a share of the way from best to chance."""
ARROWS = 0.035
"""Height of a row of arrows, as a share of the panel."""
X_COLUMN = {"context": "eval_length", "queries": "num_queries", "position": "eval_length"}
"""Column of the store that each axis varies."""
FAR = 3
"""A logarithmic axis reaches to chance only if a curve comes this near to it, as a factor."""
_LABEL_IN = 0.125
"""Least distance between two labels, inches."""


@dataclass(frozen=True, slots=True)
class Range:
    """Limits as drawn, and whether the axis is logarithmic."""

    bottom: float
    top: float
    is_log: bool

    def fraction(self, value: float) -> float:
        """Height of a value, 0 at the bottom and 1 at the top."""
        low, high, at = (
            np.log([self.bottom, self.top, value]) if self.is_log else (self.bottom, self.top, value)
        )
        return float((at - low) / (high - low))


def vertical_range(points: pd.DataFrame, higher_is_better: bool, combine: str = "mean") -> Range:
    """From the best possible value to the worst one drawn, at most `BEYOND_CHANCE` beyond chance.

    Logarithmic for errors with best value 0 of which some are below a thirtieth of chance, and for metrics
    that are the exponential of a mean (perplexity), where it starts at the best one drawn.

    Args:
        points: everything that will be drawn, with `value`, `low`, `high`, `chance` and `best`.
        higher_is_better: direction of the metric.
        combine: how values of items become one.
    """
    chance, best = points["chance"].mean(), points["best"].mean()
    drawn = pd.concat([points["value"], points["low"], points["high"]]).dropna()
    if combine == "exp_mean":
        reach = chance * (chance / best) ** BEYOND_CHANCE
        worst = min(drawn.max(), reach)
        worst = max(worst, chance) if worst > chance / FAR else worst
        pad = (worst / drawn.min()) ** 0.06
        return Range(drawn.min() / pad, worst * pad, True)
    reach = BEYOND_CHANCE * abs(chance - best)
    if higher_is_better:
        worst = max(chance - reach, min(drawn.min(), chance))
    else:
        worst = min(chance + reach, max(drawn.max(), chance))
    smallest = points["value"][points["value"] > 0].min()
    if not higher_is_better and best == 0 and smallest < chance / 30:
        return Range(smallest / 1.5, worst * 1.2, True)
    pad = 0.05 * abs(worst - best) or 0.5
    if higher_is_better:
        return Range(worst - pad, best + pad / 2, False)
    return Range(best - pad / 2, worst + pad, False)


def set_vertical(axes: Axes, limits: Range, board: Board) -> None:
    """Apply a range, and name the metric and its direction."""
    if limits.is_log:
        axes.set_yscale("log")
        if limits.top / limits.bottom < 100:
            axes.yaxis.set_major_locator(FixedLocator(_round_values(limits)))
            axes.yaxis.set_minor_locator(FixedLocator([]))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        else:
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: format_power(value)))
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(limits.bottom, limits.top)
    axes.set_ylabel(f"{board.metric} ({board.direction})")


def _round_values(limits: Range) -> list[float]:
    """Ticks of a logarithmic axis of less than two decades: 1, 2, 5, …, or an even grid if it is short."""
    if limits.top / limits.bottom > 5:
        exponents = range(int(np.floor(np.log10(limits.bottom))), int(np.ceil(np.log10(limits.top))) + 1)
        ticks = [digit * 10.0**k for k in exponents for digit in (1, 2, 5)]
    else:
        ticks = MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(limits.bottom, limits.top)
    return [float(tick) for tick in ticks if limits.bottom <= tick <= limits.top]


def tell_unseen(points: pd.DataFrame, limits: Range) -> str:
    """A sentence about chance and the best possible value where they are off a logarithmic axis."""
    found = []
    for name, column in (("The best possible value", "best"), ("Chance", "chance")):
        value = points[column].mean()
        if limits.is_log and not limits.bottom < value < limits.top:
            where = "below" if value <= limits.bottom else "above"
            found.append(f"{name}, {value:.3g}, is {where} the axis.")
    return " ".join(found)


def mark_clipped(axes: Axes, points: pd.DataFrame, x: str, limits: Range, styles: Styles) -> pd.DataFrame:
    """Arrows outside the edge where the mean of a series is off the axis, one row of arrows a series.

    Args:
        axes: the panel; its limits are set.
        points: what is drawn in it.
        x: column of the horizontal axis.
        limits: range of the vertical axis.
        styles: series → its look, see `Board.styles`.

    Returns:
        the points that are off the axis.
    """
    outside = points[(points["value"] > limits.top) | (points["value"] < limits.bottom)]
    across = blended_transform_factory(axes.transData, axes.transAxes)
    for row, name in enumerate(dict.fromkeys(outside["series"])):
        mine = outside[outside["series"] == name]
        above = (mine["value"] > limits.top).any()
        axes.plot(
            mine[x],
            [1.02 + ARROWS * row if above else -0.02 - ARROWS * row] * len(mine),
            transform=across,
            marker="^" if above else "v",
            markersize=4,
            linestyle="none",
            color=styles[name]["color"],
            clip_on=False,
        )
    return outside


def tell_clipped(outside: pd.DataFrame, axis: str, unit: str = "tokens") -> str:
    """A sentence with the most extreme value of each series off the axis; empty if there is none."""
    if outside.empty:
        return ""
    x = X_COLUMN[axis]
    distance = (outside["value"] - outside["chance"]).abs()
    extremes = outside.loc[distance.groupby(outside["series"], sort=False).idxmax()]
    found = [
        f"{series}, {format_value(value)} at {format_length(length, unit)}"
        for series, value, length in extremes[["series", "value", x]].itertuples(index=False)
    ]
    return f"Off the axis (arrows), at most: {'; '.join(found)}."


def draw_references(axes: Axes, points: pd.DataFrame, x: str, limits: Range) -> dict[str, float]:
    """Draw the best possible value and the answers that ignore the context.

    Returns:
        name → height at the right edge, for labels; lines outside the axis are left out.
    """
    ends = {}
    chance = points.groupby(x)["chance"].mean()
    known = {name: value for found in points["references"] for name, value in found.items()}
    for name, value in sorted(known.items()):
        if limits.bottom < value < limits.top and not np.isclose(value, chance.iloc[-1]):
            axes.axhline(value, color=GREY, linewidth=0.7, linestyle=":", zorder=1)
            ends[name.replace("_", " ")] = float(value)
    left, right = axes.get_xlim()
    xs, heights = [left, *chance.index, right], [chance.iloc[0], *chance, chance.iloc[-1]]
    if limits.bottom < chance.iloc[-1] < limits.top:
        axes.plot(xs, heights, color="black", linewidth=1, linestyle="--", zorder=2)
        ends["chance"] = float(chance.iloc[-1])
    best = float(points["best"].mean())
    if limits.bottom < best < limits.top:
        axes.axhline(best, color=GREY, linewidth=0.8, zorder=1)
        ends["best possible"] = best
    return ends


def label_references(axes: Axes, ends: dict[str, float], limits: Range, height_in: float) -> float:
    """Name the reference lines at the right edge, moved apart where they would overlap.

    Args:
        axes: the panel.
        ends: name → value at the right edge.
        limits: range of the vertical axis.
        height_in: height that the panel will have, inches.

    Returns:
        the room that the labels take, inches.
    """
    names = sorted(ends, key=ends.__getitem__)
    true = [limits.fraction(ends[name]) for name in names]
    widest_in = 0.0
    for name, line, label in zip(names, true, spread(true, _LABEL_IN / height_in), strict=True):
        colour = "black" if name == "chance" else GREY
        axes.annotate(
            f"{name} {ends[name]:.3g}",
            xy=(1, line),
            xytext=(1.035, label),
            xycoords="axes fraction",
            annotation_clip=False,
            va="center_baseline",
            fontsize=7,
            color=colour,
        )
        axes.plot(
            [1, 1.008, 1.022, 1.03],
            [line, line, label, label],
            transform=axes.transAxes,
            clip_on=False,
            color=colour,
            linewidth=0.6,
        )
        widest_in = max(widest_in, axes.texts[-1].get_window_extent().width / axes.figure.dpi)
    return widest_in + 0.3


def spread(heights: list[float], gap: float) -> list[float]:
    """Increasing heights moved apart to at least `gap`; those that crowd stay centred where they belong."""
    crowds: list[tuple[float, int]] = []
    for height in heights:
        crowds.append((height, 1))
        while len(crowds) > 1:
            (below, num_below), (above, num_above) = crowds[-2:]
            num = num_below + num_above
            if above - below >= gap * num / 2 - 1e-9:
                break
            crowds[-2:] = [((below * num_below + above * num_above) / num, num)]
    return [centre + gap * (k - (num - 1) / 2) for centre, num in crowds for k in range(num)]
