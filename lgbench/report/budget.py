"""Draw what training and evaluation cost: the metric against training steps, and tokens per second."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from lgbench.report.curves import Board
from lgbench.report.figures import HEIGHT_IN, describe, draw_lines
from lgbench.report.style import GREY, Styles, compose, looks, new_figure
from lgbench.report.vertical import (
    ARROWS,
    draw_references,
    label_references,
    mark_clipped,
    set_vertical,
    tell_clipped,
    tell_unseen,
    vertical_range,
)
from lgbench.report.wording import count_of, format_rate
from lgbench.stats.scores import reference_index

_MULTIPLES = (1 / 4, 1, 4, 16)
"""Evaluation lengths of the panels, as multiples of the most common training length."""
_COSTS = {"train_tokens_per_s": "training, tokens/s", "eval_tokens_per_s": "evaluation, tokens/s"}


def has_steps(board: Board) -> bool:
    """Whether some series was measured along its training."""
    context = board.points[board.points["axis"] == "context"]
    return bool((context.groupby("series")["step"].nunique() > 1).any())


def steps_figure(board: Board) -> Figure:
    """The metric against training steps, a panel an evaluation length, of series measured more than once."""
    points = board.points[board.points["axis"] == "context"]
    points = points[points.groupby("series")["step"].transform("nunique") > 1]
    lengths = _panel_lengths(points)
    points = points[points["eval_length"].isin(lengths)]
    limits = vertical_range(points, board.higher_is_better, board.combine)
    height_in = 0.8 * HEIGHT_IN
    with looks():
        figure, panels = new_figure(len(lengths))
        title_at = 1.05 + ARROWS * points.loc[points["value"] > limits.top, "series"].nunique()
        handles, outside = {}, []
        for panel, length in zip(panels, lengths, strict=True):
            here = points[points["eval_length"] == length]
            handles |= {line.get_label(): line for line in draw_lines(panel, here, "step", board.styles)}
            set_vertical(panel, limits, board)
            outside.append(mark_clipped(panel, here, "step", limits, board.styles))
            panel.set_title(
                f"at {board.length(length)} {board.length_unit}", fontsize=8, loc="left", y=title_at
            )
            panel.set(xlim=(0, points["step"].max() * 1.06), xlabel="training steps")
            panel.xaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
            panel.xaxis.set_major_formatter(
                FuncFormatter(lambda steps, _: format_rate(steps).replace(" ", ""))
            )
            if panel is not panels[0]:
                panel.set(ylabel="", yticklabels=[])
            ends = draw_references(panel, here, "step", limits)
        off = pd.concat(outside)
        compose(
            figure,
            panels,
            height_in=height_in,
            footer=[
                *describe(board, points),
                f"Trained on up to {count_of(points['train_length'], board.length_unit.removesuffix('s'))}.",
                tell_clipped(off, "context", board.length_unit),
                tell_unseen(points, limits),
            ],
            notice=board.notice,
            handles=list(handles.values()),
            right_in=label_references(panels[-1], ends, limits, height_in),
            top_in=height_in * (title_at - 1) + 0.1,
        )
    return figure


def _panel_lengths(points: pd.DataFrame) -> list[int]:
    """Up to four evaluated lengths around the most common training length."""
    lengths = sorted(int(length) for length in points["eval_length"].unique())
    train_length = int(points["train_length"].mode()[0])
    near = [reference_index(lengths, int(multiple * train_length)) for multiple in _MULTIPLES]
    return sorted({lengths[index] for index in near if index is not None} or {lengths[0]})


def cost_figures(board: Board) -> Iterable[tuple[str, str, Figure]]:
    """Name, device and figure of what a board cost, a figure a device: rates of two are never averaged."""
    context = board.rows[board.rows["axis"] == "context"]
    devices = sorted(context["device"].unique())
    for number, device in enumerate(devices, start=1):
        figure = cost_figure(board, context[context["device"] == device])
        if figure is not None:
            yield "cost" if len(devices) == 1 else f"cost-{number}", device, figure


def cost_figure(board: Board, context: pd.DataFrame) -> Figure | None:
    """Tokens per second in training and evaluation, a bar a method, a dot a seed; None if nobody measured.

    Args:
        board: the comparison.
        context: its rows along the context, of one device.
    """
    shown = [name for name in _COSTS if context[name].notna().any()]
    if not shown:
        return None
    with looks():
        figure, panels = new_figure(len(shown))
        measured = set(context["series"])
        styles = {name: style for name, style in board.styles.items() if name in measured}
        for panel, name in zip(panels, shown, strict=True):
            _bars(panel, context.groupby(["series", "seed"])[name].mean().dropna(), styles)
            panel.set_xlabel(_COSTS[name])
            panel.set_yticks(range(len(styles)), [*styles] if panel is panels[0] else [])
            panel.tick_params(axis="y", length=0)
        labels = panels[0].get_yticklabels()
        compose(
            figure,
            panels,
            height_in=0.28 * len(styles) + 0.1,
            footer=[
                f"Task: {board.title}. Device: {', '.join(sorted(context['device'].unique()))}.",
                f"Scan or attention: {', '.join(sorted(context['scan_backend'].unique()))}.",
                "Means over seeds and, in evaluation, over lengths; dots are seeds. Queries count as tokens.",
            ],
            notice=board.notice,
            gap_in=0.4,
            left_in=max(label.get_window_extent().width for label in labels) / figure.dpi + 0.2,
        )
    return figure


def _bars(panel: Axes, seeds: pd.Series, styles: Styles) -> None:
    """One bar a series from values by (series, seed), with the mean beside it."""
    by_name = seeds.groupby(level="series")
    facts = by_name.agg(["mean", "max", "size"]).assign(at=lambda found: found.index.map([*styles].index))
    colours = [styles[name]["color"] for name in facts.index]
    panel.barh(facts["at"], facts["mean"], height=0.62, color=colours, alpha=0.75)
    dots = seeds[by_name.transform("size") > 1]
    at = facts["at"].loc[dots.index.get_level_values("series")]
    panel.plot(dots.to_numpy(), at, "o", color="black", markersize=2.5, alpha=0.7)
    for row in facts.itertuples():
        panel.annotate(
            format_rate(row.mean),
            (row.max, row.at),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=7,
            color=GREY,
        )
    panel.set_xlim(0, seeds.max() * 1.2)
    panel.set_ylim(len(styles) - 0.4, -0.6)
    panel.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: format_rate(rate)))
