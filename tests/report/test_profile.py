"""The figure of effective lengths by threshold."""

from lgbench.report.curves import load
from lgbench.report.profile import profile_figure
from lgbench.report.standings import standings

GRID = [256 << k for k in range(8)]


def test_a_line_a_method_falls_with_the_threshold_and_lies_where_the_curve_crosses(root, store):
    for seed in range(3):
        store(root, lambda length: 0.02 if length <= 1024 else 0.12, lengths=GRID, seed=seed)
        store(root, lambda length: 0.241, lengths=GRID, seed=seed, label="nothing", method="nothing")
    board = load([root]).boards[0]
    (axes,) = profile_figure(board, standings(board)[0]).axes
    (line,) = [line for line in axes.lines if line.get_label() == "vanilla"]
    multiples = list(line.get_ydata())
    assert multiples == sorted(multiples, reverse=True)
    assert multiples[0] == 32, "half of the score is held to the end"
    assert 1 < multiples[-1] < 2


def test_without_anything_learned_there_is_no_figure(root, store):
    store(root, lambda length: 0.5, lengths=GRID)
    board = load([root]).boards[0]
    assert profile_figure(board, standings(board)[0]) is None
