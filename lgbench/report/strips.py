"""Draw what models paint after more and more context, from the pictures that a run keeps beside its rows.

RESULTS/strips/TASK/CELL.npz     truth            (num_images, height, width), in [-1, 1]
                                 reconstructions  (num_images, num_lengths, height, width)
                                 lengths          (num_lengths,)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from lgbench.report.curves import Board
from lgbench.report.style import GREY, compose, looks, new_figure, width_in
from lgbench.report.tables import readable_subset
from lgbench.report.wording import NOTHING, format_length
from lgbench.safe_text import is_file_name
from lgbench.store.store import first_line

MAX_IMAGES = 2
"""Images shown, a figure each."""
_GAP = 0.16
"""Between pictures, as a share of a picture's side."""
_STEP = 1 + _GAP


@dataclass(frozen=True, slots=True, kw_only=True)
class Strip:
    """The pictures of one trained model.

    Attributes:
        truth: `(num_images, height, width)` in [-1, 1].
        pictures: length → `(num_images, height, width)`.
    """

    series: str
    seed: int
    train_low: int
    train_high: int
    truth: NDArray[np.float64]
    pictures: dict[int, NDArray[np.float64]]


def read_strips(roots: Sequence[Path], board: Board, warnings: list[str]) -> list[Strip]:
    """One strip a series of a board, of its lowest seed that has one; a broken file becomes a warning."""
    strips: list[Strip] = []
    folders = [folder for root in roots if (folder := Path(root) / "strips" / board.task).is_dir()]
    if not folders:
        return strips
    final = board.points[board.points["is_final"]].groupby("series")["step"].max()
    for series in board.series:
        rows = board.rows[(board.rows["series"] == series) & (board.rows["step"] == final[series])]
        cells = rows.sort_values("seed").drop_duplicates("cell")
        for row in cells[["cell", "seed", "train_low", "train_high"]].itertuples():
            if not is_file_name(row.cell):  # a path leads anywhere
                warnings.append(f"No pictures of {board.task}, {row.cell}: this is no name of a file")
                continue
            paths = [folder / f"{row.cell}.npz" for folder in folders]
            found = [pictures for path in paths if path.is_file() and (pictures := _read(path, warnings))]
            if found:
                truth, pictures = found[0]
                strips.append(
                    Strip(
                        series=series,
                        seed=row.seed,
                        train_low=row.train_low,
                        train_high=row.train_high,
                        truth=truth,
                        pictures=pictures,
                    )
                )
                break
    return strips


def _read(path: Path, warnings: list[str]) -> tuple[NDArray, dict[int, NDArray]] | None:
    try:
        with np.load(path, allow_pickle=False) as file:
            truth, painted = file["truth"].astype(float), file["reconstructions"].astype(float)
            lengths = [int(length) for length in file["lengths"]]
    except Exception as error:  # damage within an archive shows in many ways
        warnings.append(f"Could not read the pictures in {path}: {first_line(error)}")
        return None
    if truth.ndim != 3 or not len(truth) or painted.shape != (len(truth), len(lengths), *truth.shape[1:]):
        shapes = f"shapes {truth.shape} and {painted.shape}, {len(lengths)} lengths"
        warnings.append(f"Could not use the pictures in {path}: {shapes}")
        return None
    return truth, {length: painted[:, index] for index, length in enumerate(lengths)}


def strip_figure(board: Board, strips: Sequence[Strip], image: int) -> Figure:
    """One image as every model paints it: a row a model, a column a length of the context, the truth last.

    A line under the pictures spans the lengths of the model's training range.
    """
    lengths = sorted({length for strip in strips for length in strip.pictures})
    highs = [strip.train_high for strip in strips]
    columns = readable_subset(lengths, max(set(highs), key=highs.count))
    with looks():
        figure, (axes,) = new_figure()
        axes.axis("off")
        for row, strip in enumerate(strips):
            colour = board.styles[strip.series]["color"]
            _draw_row(axes, strip, row, columns, image, colour)
        names = [
            axes.text(-0.1, row * _STEP + 0.5, strip.series, ha="right", va="center")
            for row, strip in enumerate(strips)
        ]
        for column, heading in enumerate([*map(format_length, columns), "truth"]):
            axes.text(column * _STEP + 0.5, -0.08, heading, ha="center", va="bottom")
        width, height = (len(columns) + 1) * _STEP - _GAP, len(strips) * _STEP
        axes.set(xlim=(-0.01, width + 0.01), ylim=(height, 0), aspect="auto")
        left_in = max(name.get_window_extent().width for name in names) / figure.dpi + 0.2
        seeds = ", ".join(str(seed) for seed in sorted({strip.seed for strip in strips}))
        compose(
            figure,
            [axes],
            height_in=height / width * (width_in() - left_in - 0.1),
            footer=[
                f"Task: {board.title}.",
                f"Seed {seeds}. Columns: context tokens (K = 1,024).",
            ],
            notice=board.notice,
            handles=[Line2D([], [], color=GREY, linewidth=2, label="within the training range")],
            left_in=left_in,
            top_in=0.15,
            bottom_in=0.05,
        )
    return figure


def _draw_row(axes: Axes, strip: Strip, row: int, columns: list[int], image: int, colour: str) -> None:
    """Pictures of one model, a dash where there is none, and a line under those of its training range."""
    top = row * _STEP
    for column, tile in enumerate([*(strip.pictures.get(length) for length in columns), strip.truth]):
        left = column * _STEP
        if tile is None or image >= len(tile):
            axes.text(left + 0.5, top + 0.5, NOTHING, ha="center", va="center", color=GREY)
            continue
        axes.imshow(tile[image], cmap="gray", vmin=-1, vmax=1, extent=(left, left + 1, top + 1, top))
        axes.add_patch(Rectangle((left, top), 1, 1, fill=False, edgecolor="#999999", linewidth=0.5))
    trained = [k for k, length in enumerate(columns) if strip.train_low <= length <= strip.train_high]
    if trained:
        ends = [trained[0] * _STEP, trained[-1] * _STEP + 1]
        axes.plot(ends, [top + 1 + _GAP / 2] * 2, color=colour, linewidth=2, solid_capstyle="butt")
