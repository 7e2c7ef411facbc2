"""Training curves: what a run keeps of its losses, and what the report draws of them."""

import json

import pytest

from lgbench.report import build_report
from lgbench.report.curves import load
from lgbench.report.training import read_trainings, training_figure
from lgbench.store.losses import read_losses, write_losses

FALLING = [(100, 2.0), (200, 1.0), (300, 0.5)]


def folder_of(root, training):
    return root / "checkpoints" / training


def test_losses_come_back_as_they_were_written_without_what_is_not_finite(tmp_path):
    path = write_losses(folder_of(tmp_path, "t"), [*FALLING, (400, float("nan"))])
    assert json.loads(path.read_text())[:3] == [[100, 2.0], [200, 1.0], [300, 0.5]]
    assert read_losses([tmp_path / "other", tmp_path], "t") == FALLING
    assert read_losses([tmp_path], "unknown") == []


def test_methods_that_share_a_training_have_one_line_a_seed(root, store):
    for seed in range(2):
        for label in ("slow_clock", "vanilla"):
            store(root, seed=seed, label=label, method=label, training=f"shared-{seed}")
        write_losses(folder_of(root, f"shared-{seed}"), FALLING)
    (board,) = load([root]).boards
    found = read_trainings([root], board, [])
    assert found == {"vanilla": {0: FALLING, 1: FALLING}}
    (axes,) = training_figure(board, found).axes
    assert [list(line.get_xdata()) for line in axes.lines] == [[100, 200, 300]] * 2
    assert axes.get_yscale() == "log" and {line.get_color() for line in axes.lines} == {"#000000"}


@pytest.mark.parametrize("text", ["{", "[1, 2]", '[["a", 1]]'])
def test_a_broken_file_of_losses_is_named_and_the_page_is_made(root, store, text):
    store(root, training="torn")
    write_losses(folder_of(root, "torn"), FALLING).write_text(text)
    made = build_report([root], root / "report")
    assert any("losses of training torn" in warning for warning in made.warnings)


def test_the_report_shows_training_curves_where_there_are_any(root, store):
    store(root, training="t")
    write_losses(folder_of(root, "t"), FALLING)
    made = build_report([root], root / "report")
    assert [path.name for path in made.figures if "training" in path.name] == [
        "omniglot-omniglot-small-small-mse-training.svg"
    ]
    assert "Training loss against steps: vanilla." in made.html.read_text()
