"""Draw how the effective length depends on the threshold: a line a method, thresholds from .5 to .95."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from lgbench.report.curves import Board
from lgbench.report.figures import HEIGHT_IN
from lgbench.report.standings import Standing
from lgbench.report.style import compose, looks, new_figure
from lgbench.report.wording import format_multiple


def profile_figure(board: Board, standing: Standing) -> Figure | None:
    """Median effective length of every series that has learned something, as a multiple of L_train.

    Returns:
        None where no series has an effective length.
    """
    profiles = {row.series: row.profile for row in standing.table.itertuples() if row.profile}
    if not profiles:
        return None
    with looks():
        figure, (axes,) = new_figure()
        handles = []
        for name in board.series:
            if name in profiles:
                shares, multiples = zip(*sorted(profiles[name].items()), strict=True)
                handles += axes.plot(shares, multiples, label=name, **board.styles[name])
        axes.set_yscale("log", base=2)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda multiple, _: format_multiple(multiple)))
        axes.set(xlabel="share of the best score within the training range", ylabel="effective length")
        compose(
            figure,
            [axes],
            height_in=0.8 * HEIGHT_IN,
            footer=[
                f"Task: {board.title}, {standing.title}.",
                "First length at which the score falls below the share: median over seeds. A flat line at "
                "the top has held to the longest length evaluated.",
            ],
            notice=board.notice,
            handles=handles,
        )
    return figure
