"""Draw where in the context memory fails: depth of the needle against context length, a panel a method."""

from __future__ import annotations

import re
import textwrap

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from lgbench.report.curves import Board
from lgbench.report.series import items_of, summarise
from lgbench.report.style import GREY, compose, looks, new_figure, width_in
from lgbench.report.wording import count_of, unit_in_words

MAX_DEPTHS = 11
"""More different depths than this are put together in tenths of the context."""
MAX_PANELS = 3
"""Panels side by side."""
_COLUMNS_A_ROW = 27
"""Columns of all panels side by side that still have room for their numbers."""
_RIGHT_IN = 0.75
_LEFT_IN = 0.55
_GAP_IN = 0.12
_CHARACTERS_PER_IN = 15
"""Of the panels' titles, 7.5 points."""
_LINE = {"color": "white", "linewidth": 1, "path_effects": [withStroke(linewidth=2.6, foreground="black")]}
"""Seen on any colour."""


def depth_cells(board: Board) -> pd.DataFrame:
    """What was measured at each depth and length at the end of training.

    Read from the rows whose items have among their facts a "depth", from 0 at the start of the context to 1,
    or a "place", the number of the document that matters, from 0.

    Returns:
        one row a series, length and depth: `series`, `train_length`, `eval_length`, `depth`, `value`, `low`,
        `high`, `num_seeds` and `num_items` (of a seed); empty if no item has a depth.
    """
    items = _items(board)
    if items.empty:
        return pd.DataFrame(columns=["series", "eval_length", "depth", "value"])
    found = []
    for key, cell in items.groupby(["series", "train_length", "eval_length", "depth"], sort=False):
        where = dict(zip(["series", "train_length", "eval_length", "depth"], key, strict=True))
        values = [mine["value"].to_numpy(float) for _, mine in cell.groupby("seed")]
        clusters = next(iter(cell.groupby("seed")))[1]["cluster"]
        summary = summarise(
            [values], None if clusters.isna().any() else clusters.tolist(), board.combine, board.is_binary
        )
        found.append(
            where
            | {name: float(ends[0]) for name, ends in summary.items()}
            | {"num_seeds": len(values), "num_items": max(map(len, values))}
        )
    return pd.DataFrame(found)


def _items(board: Board) -> pd.DataFrame:
    """One row an item that has a depth, of the last step of each series."""
    rows = board.rows[(board.rows["axis"] == "context") & board.rows["item_facts"].map(bool)]
    rows = rows[rows["step"] == rows.groupby("series")["step"].transform("max")]
    parts = []
    columns = ["series", "train_length", "eval_length", "seed", "item_facts", "item_clusters"]
    for row, values in zip(rows[columns].itertuples(), items_of(rows) if len(rows) else (), strict=True):
        depths = _depths(row.item_facts, row.eval_length)
        if len(depths) == len(values):
            same = {"series": row.series, "train_length": row.train_length, "eval_length": row.eval_length}
            known = np.ndim(row.item_clusters) and len(row.item_clusters) == len(values)
            same |= {"seed": row.seed, "cluster": row.item_clusters if known else None}
            parts.append(pd.DataFrame({"depth": depths, "value": values}).assign(**same))
    if not parts:
        return pd.DataFrame()
    items = pd.concat(parts, ignore_index=True)
    if items["depth"].nunique() > MAX_DEPTHS:
        items["depth"] = (np.floor(items["depth"] * 10).clip(0, 9) / 10 + 0.05).round(2)
    order = {name: index for index, name in enumerate(board.series)}
    return items.sort_values(
        ["series", "eval_length", "depth"], key=lambda s: s.map(order) if s.name == "series" else s
    )


def _depths(facts: dict[str, list], length: int) -> list[float]:
    """Where in a context of `length` each item has what is asked for, 0 to 1; empty if that is not known."""
    if "place" in facts:
        return [place / max(1, length - 1) for place in facts["place"]]
    return facts.get("depth", [])


def depth_figure(board: Board, cells: pd.DataFrame) -> Figure:
    """A heat map a method: context length to the right, depth downwards, brighter is better.

    Numbers are what the colours say, in their unit. A white line ends the training lengths.

    Args:
        board: where the cells are from.
        cells: what `depth_cells` gave; not empty.
    """
    lengths, depths = sorted(cells["eval_length"].unique()), sorted(cells["depth"].unique())
    names = list(dict.fromkeys(cells["series"]))
    most = max(1, min(MAX_PANELS, len(names), _COLUMNS_A_ROW // len(lengths)))
    columns = -(-len(names) // -(-len(names) // most))
    per_line = int(_CHARACTERS_PER_IN * ((width_in() - _LEFT_IN - _RIGHT_IN) / columns - _GAP_IN))
    titles = [_wrapped(name, per_line) for name in names]
    title_in = 0.06 + 0.13 * max(title.count("\n") + 1 for title in titles)
    is_share = _is_share(board, cells)
    norm, colours = _colours(board, cells, is_share)
    with looks():
        figure, panels = new_figure(len(names))
        for index, (panel, name) in enumerate(zip(panels, names, strict=True)):
            mine = cells[cells["series"] == name]
            grid = mine.pivot(index="depth", columns="eval_length", values="value").reindex(
                depths, columns=lengths
            )
            panel.imshow(grid, aspect="auto", cmap=colours, norm=norm, interpolation="nearest")
            _write_numbers(panel, grid, colours, norm, is_share, columns)
            _end_training(panel, lengths, mine["train_length"].iloc[0])
            panel.set_title(titles[index], fontsize=7.5, loc="left", pad=3)
            is_left, is_lowest = index % columns == 0, index + columns >= len(names)
            _label_axes(panel, board, lengths, depths, is_left, is_lowest)
        height_in = max(0.16 * len(depths), 0.9)
        compose(
            figure,
            panels,
            height_in=height_in,
            columns=columns,
            gap_in=_GAP_IN,
            left_in=_LEFT_IN,
            right_in=_RIGHT_IN,
            top_in=title_in,
            row_gap_in=title_in + 0.1,
            bottom_in=0.62 if _are_upright(board, lengths) else 0.45,
            handles=[Line2D([], [], **_LINE, label="end of the training lengths")],
            footer=_footer(board, cells, is_share),
            notice=board.notice,
        )
        _colour_bar(figure, panels, norm, colours, board)
    return figure


def _wrapped(name: str, per_line: int) -> str:
    """A name in lines that fit over a panel, broken before its parameters and between them if possible."""
    lines = [""]
    for piece in re.split(r"(?<=[, ])|(?<=\w)(?=\[)", name):
        if lines[-1] and len(lines[-1] + piece) > per_line:
            lines.append("")
        lines[-1] += piece
    return "\n".join(part for line in lines for part in textwrap.wrap(line, per_line))


def _is_share(board: Board, cells: pd.DataFrame) -> bool:
    """Whether values read as per cent: they are from 0 to 1, and 1 is best."""
    in_range = cells["value"].between(0, 1).all() and board.points["best"].eq(1).all()
    return board.higher_is_better and bool(in_range)


def _colours(
    board: Board, cells: pd.DataFrame, is_share: bool
) -> tuple[Normalize, matplotlib.colors.Colormap]:
    """Bright is good. Shares from 0 to 1, other metrics between the extremes that occur."""
    colours = matplotlib.colormaps["cividis" if board.higher_is_better else "cividis_r"]
    low, high = cells["value"].min(), cells["value"].max()
    if is_share:
        return Normalize(0, 1), colours
    if low == high:
        low, high = low * 0.99, high * 1.01
    return (LogNorm if board.combine == "exp_mean" else Normalize)(low, high), colours


def _write_numbers(
    panel: Axes,
    grid: pd.DataFrame,
    colours: matplotlib.colors.Colormap,
    norm: Normalize,
    is_share: bool,
    columns: int,
) -> None:
    """The value of each cell, dark on bright and bright on dark; a dash where there is none."""
    column_in = (width_in() - _LEFT_IN - _RIGHT_IN) / columns / grid.shape[1]
    size = min(7.0, 27 * column_in)
    for (row, column), value in np.ndenumerate(grid.to_numpy()):
        text, colour = "–", GREY
        if np.isfinite(value):
            red, green, blue, _ = colours(norm(value))
            colour = "black" if 0.3 * red + 0.59 * green + 0.11 * blue > 0.5 else "white"
            text = f"{value:.2f}".removeprefix("0") if is_share else f"{value:.2g}"
        panel.text(column, row, text, ha="center", va="center", fontsize=size, color=colour)


def _end_training(panel: Axes, lengths: list[int], train_length: int) -> None:
    """A line between the last length up to the training length and the first beyond it."""
    inside = sum(length <= train_length for length in lengths)
    if 0 < inside < len(lengths):
        panel.axvline(inside - 0.5, **_LINE)


def _are_upright(board: Board, lengths: list[int]) -> bool:
    """Whether the names of the lengths need more room than a panel is wide."""
    return max(len(board.length(length)) for length in lengths) * len(lengths) > 24


def _label_axes(
    panel: Axes, board: Board, lengths: list[int], depths: list[float], is_left: bool, is_lowest: bool
) -> None:
    texts = [board.length(length) for length in lengths]
    panel.set_xticks(range(len(lengths)), texts if is_lowest else [])
    panel.tick_params(axis="x", labelsize=6.5, rotation=90 if _are_upright(board, lengths) else 0)
    panel.set_yticks(range(len(depths)), [f"{depth:.2g}" for depth in depths] if is_left else [])
    panel.tick_params(axis="both", length=0, pad=2)
    for spine in panel.spines.values():
        spine.set_visible(False)
    if is_lowest:
        panel.set_xlabel(f"context length ({unit_in_words(board.length_unit)})", fontsize=7.5)
    if is_left:
        panel.set_ylabel("depth", fontsize=8)


def _colour_bar(
    figure: Figure, panels: list[Axes], norm: Normalize, colours: matplotlib.colors.Colormap, board: Board
) -> None:
    """One bar beside all panels, as high as all of them."""
    boxes = [panel.get_position() for panel in panels]
    top, bottom = max(box.y1 for box in boxes), min(box.y0 for box in boxes)
    right = max(box.x1 for box in boxes)
    axes = figure.add_axes((right + 0.14 / width_in(), bottom, 0.1 / width_in(), top - bottom))
    bar = figure.colorbar(ScalarMappable(norm, colours), cax=axes)
    bar.outline.set_visible(False)
    bar.set_label(f"{board.metric} ({board.direction})", fontsize=7)
    bar.ax.tick_params(labelsize=6.5, length=2)


def _footer(board: Board, cells: pd.DataFrame, is_share: bool) -> list[str]:
    counts = f"{count_of(cells['num_seeds'], 'seed')} and {count_of(cells['num_items'], 'item')}"
    return [
        f"Task: {board.title}.",
        "Depth: 0 at the start of the context, 1 at its end; a row holds what lies within a tenth of it.",
        f"Each cell: mean over {counts}; –: not measured.",
    ]
