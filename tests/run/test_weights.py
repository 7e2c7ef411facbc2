"""The best of several checkpoints is chosen on items of the training split, at the training length."""

import json
from dataclasses import replace

import pytest
import torch

from lgbench.errors import UserError
from lgbench.plan.cells import checkpoint_folder
from lgbench.plan.rekey import cell_of_row
from lgbench.run import checkpoint
from lgbench.run.calibrate import CalibrationData
from lgbench.run.weights import best_step, lowest
from lgbench.store import read

QUICK = dict(train_steps=[12], eval_lengths=(1, 16, 64), query_grid=(), eval_items=8)


@pytest.fixture
def trained(toy_cells, run_toy):
    """Cells after 4, 8 and 12 steps and the best of them, their store; the last weights are spoilt."""
    *along, best = toy_cells("vanilla", eval_at_steps=[4, 8], best_of=(4, 8), **QUICK)
    outcome, store = run_toy(along)
    assert not outcome.failed
    path = checkpoint.weights_path(checkpoint_folder(store.root, best.training), 12)
    weights, facts = checkpoint.load(path)
    checkpoint.save(path, {name: torch.full_like(t, 3.0) for name, t in weights.items()}, facts)
    return along, best, store


def test_the_best_is_a_cell_beside_the_last_and_changes_no_key(toy_cells):
    plain = toy_cells("vanilla", "toy_shrink", **QUICK)
    both = toy_cells("vanilla", "toy_shrink", best_of=(4, 8), **QUICK)
    assert [cell.key for cell in both[::2]] == [cell.key for cell in plain]
    best = both[1]
    assert best.training == plain[0].training and best.step == 12 and best.competing == {4, 8, 12}
    assert best.key not in {cell.key for cell in plain} and both[1].training == both[3].training


@pytest.mark.parametrize("steps", [(12,), (4, 40)])
def test_steps_outside_of_the_training_are_refused(toy_cells, steps):
    with pytest.raises(UserError, match=f"--best-of {steps[-1]} is outside the training of 12 steps"):
        toy_cells("vanilla", best_of=steps, **QUICK)
    with pytest.raises(UserError, match="--best-of must be positive and increasing, got 8,4"):
        toy_cells("vanilla", best_of=(8, 4), **QUICK)


def test_the_rows_are_those_of_the_weights_of_lowest_validation_loss(trained, toy_task, run_toy):
    along, best, store = trained
    chosen = best_step(best, toy_task, store.root)
    [kept] = checkpoint_folder(store.root, best.training).glob("best-*.json")
    losses = {int(k): v for k, v in json.loads(kept.read_text())["validation_loss"].items()}
    assert sorted(losses) == [4, 8, 12] and chosen == min(losses, key=losses.get) != 12
    outcome, store = run_toy([best])
    assert not outcome.failed
    rows = read([store.root]).table.to_pylist(maps_as_pydicts="strict")
    mine = {r["eval_length"]: r for r in rows if r["cell"] == best.key}
    other = {r["eval_length"]: r for r in rows if r["cell"] == along[[4, 8].index(chosen)].key}
    assert mine.keys() == other.keys() == {1, 16, 64}
    for length, row in mine.items():
        assert row["value"] == other[length]["value"]
        assert row["reason"] == f"weights after step {chosen}, of lowest validation loss"
        assert row["best_of"] == "4-8" and other[length]["best_of"] == ""
    assert cell_of_row(mine[16]).key == best.key


def test_only_items_of_the_training_split_at_the_training_length_are_asked(trained, toy_task, monkeypatch):
    _, best, store = trained
    asked, draw = [], CalibrationData.draw
    monkeypatch.setattr(
        CalibrationData, "draw", lambda self, *asked_for: asked.append(asked_for) or draw(self, *asked_for)
    )
    monkeypatch.setattr(type(toy_task), "eval_set", lambda *_: pytest.fail("evaluation items were drawn"))
    best_step(best, toy_task, store.root)
    assert asked == [("validation", 8, best.recipe.train_length)]


def test_the_choice_is_stored_and_made_again_where_the_file_is_torn(trained, toy_task, monkeypatch):
    _, best, store = trained
    chosen = best_step(best, toy_task, store.root)
    with monkeypatch.context() as patch:
        patch.setattr(CalibrationData, "loss", lambda *_: pytest.fail("it was measured again"))
        assert best_step(best, toy_task, store.root) == chosen
    [kept] = checkpoint_folder(store.root, best.training).glob("best-*.json")
    kept.write_text('{"validation_loss": {"4": ')
    assert best_step(best, toy_task, store.root) == chosen
    fewer = replace(best, recipe=replace(best.recipe, best_of=(8,)))
    assert best_step(fewer, toy_task, store.root) == 8


def test_a_loss_that_is_no_number_never_wins():
    assert lowest({4: float("nan"), 8: 0.5, 12: 0.5}) == 8
    assert lowest({4: float("nan"), 12: float("inf")}) == 12
