"""Claims read the rows of the model that they name, the newest, and nothing that two cells dispute."""

import numpy as np
import pytest

from lgbench.claims.cells import NotRun, Point, Unusable


def mean_at(store, model, at=64, axis="context"):
    return store.sample(Point(model=model, axis=axis, at=at), (0, 1)).values.mean()


@pytest.mark.parametrize(
    "other",
    [{"train_length": 128}, {"train_steps": 200, "step": 200}, {"num_layers": 4}, {"d_state": 2},
     {"label": "vanilla[x=1]"}, {"backbone": "mamba2"}, {"preset": "paper"}, {"step": 50},
     {"eval_draw": 1}, {"protocol": "as_released"}, {"metric": "exact match"}],
    ids=lambda other: next(iter(other)),
)  # fmt: skip
def test_rows_of_another_setting_are_not_read(model, rows, cells, other):
    store = cells(rows(model, 0.5), rows(model, 0.9, **other))
    assert mean_at(store, model) == pytest.approx(0.5, abs=0.01)


def test_parameters_of_the_task_and_queries_in_training_decide(model, rows, cells):
    asked = model.change(task_params=(("augment", True),), train_queries=16)
    plain = rows(asked, 0.9, task_params={"augment": "false"})
    queries = rows(asked, 0.9, recipe={"train_queries": "[64,64]"})
    assert mean_at(cells(rows(asked, 0.5), plain, queries), asked) == pytest.approx(0.5, abs=0.01)
    as_text = rows(asked, 0.5, task_params='{"augment": true}', recipe='{"train_queries": [16, 16]}')
    assert mean_at(cells(as_text), asked) == pytest.approx(0.5, abs=0.01)


def test_of_two_cells_that_differ_in_their_code_the_newest_counts(model, rows, cells):
    later = rows(model, 0.9, created_at="2026-02-01", cell="later", recipe={"eval_lengths": "[64]"})
    assert mean_at(cells(rows(model, 0.5, recipe={}), later), model) == pytest.approx(0.9, abs=0.01)


@pytest.mark.parametrize("column", ["recipe", "task_params", "backbone_params"])
def test_two_cells_of_different_experiments_are_refused(model, rows, cells, column):
    store = cells(rows(model, 0.5), rows(model, 0.9, cell="other", **{column: {"learning_rate": "0.5"}}))
    with pytest.raises(Unusable, match=column):
        mean_at(store, model)


def test_queries_are_another_axis(model, rows, cells):
    by_queries = rows(model, 0.7, axis="queries", num_queries=256)
    assert mean_at(cells(rows(model, 0.5), by_queries), model, 256, "queries") == pytest.approx(0.7, abs=0.01)


def test_a_length_without_rows_was_not_run(model, rows, cells):
    store = cells(rows(model, 0.5))
    with pytest.raises(NotRun, match="seed 0 was not measured at 512"):
        mean_at(store, model, 512)
    assert not store.has(Point(model=model, at=512), 0) and store.has(Point(model=model, at=64), 0)


@pytest.mark.parametrize(
    ("columns", "why"),
    [({"value": np.nan}, "not a number"), ({"chance": 0.0}, "chance equals"), ({"best": np.inf}, "best")],
    ids=["no number", "no chance", "no best"],
)
def test_faulty_rows_are_named(model, rows, cells, columns, why):
    with pytest.raises(Unusable, match=why):
        mean_at(cells(rows(model, 0.5, **columns)), model)


def test_seeds_on_different_items_are_not_put_together(model, rows, cells):
    store = cells(rows(model, 0.5, seeds=(0,)), rows(model, 0.5, seeds=(1,), items_hash="others"))
    with pytest.raises(Unusable, match="different items"):
        mean_at(store, model)


def test_torn_parameters_and_missing_numbers_stop_nothing(model, rows, cells):
    asked = model.change(task_params=(("augment", True),))
    torn = rows(asked, 0.9, seeds=(0,), task_params={"augment": "{torn"}, created_at="2027")
    blank = rows(asked, 0.9, seeds=(0,), eval_length=None, status=None, created_at="2027")
    assert mean_at(cells(rows(asked, 0.5), torn, blank), asked) == pytest.approx(0.5, abs=0.01)
