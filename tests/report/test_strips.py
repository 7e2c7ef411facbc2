"""Pictures beside the rows."""

import numpy as np
import pytest
from matplotlib.text import Text

from lgbench.report.curves import load
from lgbench.report.strips import read_strips, strip_figure

LENGTHS = [64, 256, 1024, 4096]


def paint(root, cell, lengths=LENGTHS, num_images=2):
    path = root / "strips" / "omniglot" / f"{cell}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    truth = np.ones((num_images, 127, 127), dtype=np.float16)
    painted = np.stack([np.full_like(truth, -1 + index / 8) for index in range(len(lengths))], axis=1)
    np.savez_compressed(path, truth=truth, reconstructions=painted, lengths=np.array(lengths))
    return path


def cells_of(board):
    rows = board.rows.drop_duplicates("cell")
    return {(row.series, row.seed): row.cell for row in rows.itertuples()}


@pytest.fixture
def board(root, store):
    for seed in range(2):
        for label in ("vanilla", "prepended"):
            store(root, label=label, seed=seed, lengths=LENGTHS)
    return load([root]).boards[0]


def test_each_method_shows_its_lowest_seed_that_has_pictures(root, board):
    cells = cells_of(board)
    paint(root, cells["vanilla", 0])
    paint(root, cells["vanilla", 1])
    paint(root, cells["prepended", 1])
    warnings = []
    strips = read_strips([root], board, warnings)
    assert [(strip.series, strip.seed) for strip in strips] == [("vanilla", 0), ("prepended", 1)]
    assert strips[1].pictures[256][1, 0, 0] == -1 + 1 / 8
    assert warnings == []


def test_missing_pictures_are_no_strip_and_broken_ones_a_warning(root, board):
    cells = cells_of(board)
    path = paint(root, cells["vanilla", 0])
    path.write_bytes(path.read_bytes()[:100])
    other = root / "strips" / "omniglot" / f"{cells['prepended', 0]}.npz"
    np.savez(other, truth=np.ones((2, 8, 8)), reconstructions=np.ones((2, 3, 8, 8)), lengths=np.arange(4))
    warnings = []
    assert read_strips([root], board, warnings) == []
    assert len(warnings) == 2
    assert str(other) in warnings[1] and "4 lengths" in warnings[1]
    assert str(path) in warnings[0]


def test_figure_has_a_row_a_method_and_a_column_a_length_and_marks_the_training_range(root, board):
    cells = cells_of(board)
    paint(root, cells["vanilla", 0])
    paint(root, cells["prepended", 0], lengths=LENGTHS[:2])
    figure = strip_figure(board, read_strips([root], board, []), image=1)
    texts = [text.get_text() for text in figure.axes[0].findobj(Text)]
    for part in ("vanilla", "prepended", "64", "256", "1K", "4K", "truth"):
        assert part in texts
    assert texts.count("–") == 2
    assert len(figure.axes[0].images) == (4 + 1) + (2 + 1)
    trained = [line.get_xdata() for line in figure.axes[0].lines]
    assert len(trained) == 2 and trained[0][0] == 0
    assert trained[0][1] == pytest.approx(2 * 1.16 + 1)
    (low, high) = {image.get_clim() for image in figure.axes[0].images}.pop()
    assert (low, high) == (-1, 1)
