"""Rows of two runs of one cell: what has numbers stays, and every point is there once."""

import pytest

from lgbench.run.kept import point, points, together, without
from lgbench.task import Recipe


def row(axis, eval_length, status="ok", num_queries=8, run=1):
    return {
        "axis": axis,
        "eval_length": eval_length,
        "num_queries": num_queries,
        "status": status,
        "run": run,
    }


FIRST = [row("context", 1), row("context", 2), row("position", 1), row("position", 2)]


@pytest.mark.parametrize(
    ("new", "runs"),
    [
        ([], [1, 1, 1, 1]),
        ([row("context", 2, "out_of_memory", run=2)], [1, 1, 1, 1]),
        ([row("context", 1, run=2), row("position", 1, run=2)], [1, 1, 2, 2]),
        ([row("context", 4, "out_of_memory", run=2)], [1, 1, 1, 1, 2]),
        ([row("context", 2, "diverged", run=2), row("position", 2, run=2)], [1, 1, 2, 2]),
    ],
    ids=["nothing", "no-room-any-more", "measured-again", "no-room-still", "diverged-now"],
)
def test_what_has_numbers_stays_and_every_point_is_there_once(new, runs):
    found = together(FIRST, new)
    assert [one["run"] for one in found] == runs
    places = [(one["axis"], one["eval_length"]) for one in found]
    assert len(places) == len(set(places))


def test_points_that_were_measured_are_not_asked_for_again():
    recipe = Recipe(**dict.fromkeys(Recipe.__annotations__, 0) | {
        "train_length": 16, "eval_lengths": (1, 16, 32), "query_grid": (1, 4),
    })  # fmt: skip
    rows = [row("context", 1), row("context", 16), row("position", 16), row("queries", 16, num_queries=1)]
    left = without(recipe, rows)
    assert (left.eval_lengths, left.query_grid) == ((32,), (4,))
    assert [*map(point, rows)] == [
        ("context", 1, None), ("context", 16, None), ("context", 16, None), ("queries", 16, 1)
    ]  # fmt: skip
    assert len(points(recipe)) == 5
