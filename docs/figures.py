"""Draw the figures of README.md and docs/ from the rows of results/: `make docs` calls it.

    results/figures/NAME.png, NAME.svg

A test compares what is committed with what this would draw. The picture of reconstructions
(omniglot-small-strip.png) is not among them: it needs files that a run leaves beside its rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from lgbench.errors import UserError
from lgbench.report.curves import Board, load
from lgbench.report.figures import curve_figure
from lgbench.report.heatmap import depth_cells, depth_figure
from lgbench.report.style import save

ROOT = Path(__file__).parent.parent
FIGURES = ROOT / "results" / "figures"
KINDS = ("png", "svg")


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One figure: which board, which of its lines, drawn how.

    Attributes:
        task: as in the title of its board, parameters included.
        metric: of the board.
        labels: of the methods; empty for all.
        only: column → value of the lines.
        name: how a line is called, from its columns.
        draw: makes the figure.
    """

    task: str
    metric: str
    labels: tuple[str, ...] = ()
    only: Mapping[str, object] = field(default_factory=dict)
    name: str = "{label}"
    draw: Callable[[Board], Figure]


def _context(board: Board) -> Figure:
    return curve_figure(board, "context")


def _position(board: Board) -> Figure:
    return curve_figure(board, "position")


def _depth(board: Board) -> Figure:
    return depth_figure(board, depth_cells(board))


_MAMBA = {"backbone": "mamba"}
SHOWN: dict[str, Shown] = {
    "omniglot-collapse": Shown(
        task="omniglot",
        metric="MSE",
        labels=(
            "vanilla", "last_window", "averaged_windows", "slow_clock", "mambaextend", "mambamodulation",
            "longmamba[table_up_to=256.0]", "decimamba",
        ),
        only={"train_length": 256, "train_steps": 260_000},
        draw=_context,
    ),
    "omniglot-training": Shown(
        task="omniglot",
        metric="MSE",
        labels=("vanilla",),
        only={"train_length": 256, "decay_from": 0.5},
        name="{label}, {train_steps:,} steps",
        draw=_context,
    ),
    "omniglot-small": Shown(
        task="omniglot",
        metric="MSE",
        only={"train_length": 1024, "train_steps": 20_000, "backbone": "mamba"},
        draw=_context,
    ),
    "marked_recall-small": Shown(
        task="marked_recall[repeats=0]",
        metric="accuracy",
        labels=(
            "vanilla", "last_window", "slow_clock", "clock_law", "mambaextend", "mambamodulation",
            "longmamba[table_up_to=4096.0]", "decimamba",
        ),
        only=_MAMBA,
        draw=_context,
    ),
    "mqar-mamba2": Shown(
        task="mqar", metric="accuracy", only={"backbone": "mamba2"}, draw=_context
    ),
    "passkey-small": Shown(
        task="passkey",
        metric="accuracy",
        labels=(
            "vanilla", "last_window", "slow_clock", "clock_law", "longmamba", "decimamba",
            "state_passing[last_steps=500]",
        ),
        only={"train_steps": 3000} | _MAMBA,
        draw=_context,
    ),
    "passkey-small-depth": Shown(
        task="passkey",
        metric="accuracy",
        labels=("vanilla", "longmamba", "clock_law", "slow_clock"),
        only={"train_steps": 3000} | _MAMBA,
        draw=_depth,
    ),
    "perplexity-small-position": Shown(
        task="perplexity", metric="perplexity of all tokens", draw=_position
    ),
    "document_retrieval-small-keyword-depth": Shown(
        task="document_retrieval", metric="keyword", draw=_depth
    ),
}  # fmt: skip


def draw(folder: Path, kinds: Sequence[str] = KINDS, results: Path = ROOT / "results") -> list[Path]:
    """Draw every figure into a folder, in each of the kinds, and return the files.

    Raises:
        UserError: a figure has no rows, or its folder cannot be written.
    """
    boards = load([results]).boards
    written = []
    for name, shown in SHOWN.items():
        written += save(shown.draw(_board(boards, name, shown)), folder / name, kinds)
    return written


def _board(boards: list[Board], name: str, shown: Shown) -> Board:
    for board in boards:
        if board.title.startswith(f"{shown.task}, data") and board.metric == shown.metric:
            rows = board.rows.drop_duplicates("series")
            keep = rows["label"].isin(shown.labels) if shown.labels else rows["label"].notna()
            for column, value in shown.only.items():
                keep &= rows[column] == value
            if keep.any():
                return _renamed(board, rows[keep], shown.name)
    raise UserError(f"figure {name}: no rows of {shown.task}, {shown.metric}, {dict(shown.only)}")


def _renamed(board: Board, lines: pd.DataFrame, name: str) -> Board:
    """The board with these lines alone, called by what tells them apart here."""
    names = {line["series"]: name.format(**line) for line in lines.to_dict("records")}
    assert len({*names.values()}) == len(names), names
    parts = {}
    for table in ("rows", "missing"):
        whole = getattr(board, table)
        part = whole[whole["series"].isin(names)]
        parts[table] = part.assign(series=part["series"].map(names))
    return replace(board, **parts)


if __name__ == "__main__":
    for path in draw(FIGURES):
        print(f"written: {path.relative_to(ROOT)}")
