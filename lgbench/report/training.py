"""Draw how trainings went: the loss against steps, a line a seed. A bad curve may be a bad training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from lgbench.report.curves import Board
from lgbench.report.figures import HEIGHT_IN
from lgbench.report.style import compose, looks, new_figure
from lgbench.report.wording import format_rate
from lgbench.store.losses import read_losses

Losses = dict[str, dict[int, list[tuple[int, float]]]]
"""Series → seed → step and loss."""


def read_trainings(roots: Sequence[Path], board: Board, warnings: list[str]) -> Losses:
    """Losses of the trainings of a board; a broken file becomes a warning.

    Methods that share a training, because they train alike, have its losses once, under the first of them.
    """
    found: Losses = {}
    first = board.rows.drop_duplicates(["series", "seed", "training"])
    order = {name: place for place, name in enumerate(board.series)}
    first = first.sort_values("series", key=lambda names: names.map(order), kind="stable")
    for row in first.drop_duplicates("training").itertuples():
        try:
            losses = read_losses(roots, row.training)
        except (OSError, ValueError, TypeError) as error:
            warnings.append(f"Could not read the losses of training {row.training}: {error}")
            continue
        if len(losses) > 1:
            found.setdefault(row.series, {})[row.seed] = losses
    return found


def training_figure(board: Board, found: Losses) -> Figure:
    """The mean loss since the last look against steps; logarithmic where all losses are positive."""
    losses = [loss for seeds in found.values() for pairs in seeds.values() for _, loss in pairs]
    with looks():
        figure, (axes,) = new_figure()
        handles = []
        for name, style in board.styles.items():
            for pairs in found.get(name, {}).values():
                steps, values = zip(*pairs, strict=True)
                axes.plot(steps, values, linewidth=0.8, alpha=0.8, **_line(style))
            if name in found:
                handles.append(Line2D([], [], label=name, **_line(style)))
        if min(losses) > 0:
            axes.set_yscale("log")
        axes.set(xlabel="training steps", ylabel="training loss")
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda steps, _: format_rate(steps).replace(" ", "")))
        compose(
            figure,
            [axes],
            height_in=0.75 * HEIGHT_IN,
            footer=[
                f"Task: {board.title}. A line a seed.",
                "Methods that train alike share a training, which is shown once.",
            ],
            notice=board.notice,
            handles=handles,
        )
    return figure


def _line(style: Mapping[str, Any]) -> dict[str, Any]:
    return {"color": style["color"], "linestyle": style["linestyle"]}
