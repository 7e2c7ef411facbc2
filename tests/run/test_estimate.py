"""What a dry run says of the time that a plan takes."""

from dataclasses import replace

import pytest
import torch

from lgbench.plan.cells import task_key
from lgbench.run import estimate as module
from lgbench.run.estimate import estimate

CPU = torch.device("cpu")


@pytest.fixture
def timed(monkeypatch):
    """Every kind has steps of 2 s and answers 100 tokens a second; the kinds that were timed."""
    kinds = []

    def measure(cell, task, root, device):
        kinds.append(cell.training)
        return module._Speed(2.0, 100.0)

    monkeypatch.setattr(module, "_measure", measure)
    return kinds


def test_a_training_counts_once_and_an_evaluation_for_each_cell(toy_cells, toy_task, tmp_path, timed):
    cells = toy_cells("vanilla", "last_window", train_steps=[10], query_grid=(), eval_lengths=(16, 48))
    tasks = {task_key(cell): toy_task for cell in cells}
    found = estimate(cells, tasks, tmp_path, CPU)
    assert found.training_s == 20.0 and len(timed) == 1 and not found.calibrates
    recipe = cells[0].recipe
    answered = 2 * recipe.eval_queries
    vanilla, window = 48 + answered, 16 + 16 + answered  # one pass; a window at each length
    assert found.evaluation_s == pytest.approx(recipe.eval_items * (vanilla + window) / 100)


def test_what_is_trained_already_is_not_counted(toy_cells, toy_task, run_toy, timed):
    cells = toy_cells("vanilla", train_steps=[2])
    outcome, store = run_toy(cells)
    tasks = {task_key(cell): toy_task for cell in cells}
    assert not outcome.failed and estimate(cells, tasks, store.root, CPU).training_s == 0
    longer = toy_cells("vanilla", train_steps=[3])
    assert estimate(longer, tasks, store.root, CPU).training_s == 6.0


def test_fits_are_said_to_come_on_top(toy_cells, toy_task, tmp_path, timed):
    cells = toy_cells("mambaextend", train_steps=[2])
    assert estimate(cells, {task_key(cell): toy_task for cell in cells}, tmp_path, CPU).calibrates


def test_the_time_of_a_step_is_measured(toy_cells, toy_task, tmp_path, monkeypatch):
    (cell,) = toy_cells("vanilla", train_steps=[1000])
    monkeypatch.setattr(module, "TRIAL_SECONDS", 0.2)
    tasks = {task_key(cell): toy_task}
    found = estimate([cell], tasks, tmp_path, CPU)
    longer = replace(cell, recipe=replace(cell.recipe, eval_items=10 * cell.recipe.eval_items))
    assert 0.1 < found.training_s < 1000 and found.evaluation_s > 0
    assert module._eval_tokens(longer, toy_task) == 10 * module._eval_tokens(cell, toy_task)
    assert not any(tmp_path.iterdir())
