"""A method that trains like another has its weights, of a backbone of its own sizes where it decides some."""

import json

import pytest

from lgbench.method import Method
from lgbench.plugins.registry import METHODS
from lgbench.run import checkpoint
from lgbench.run.measure import trained_model
from lgbench.store import read


class NarrowState(Method):
    """Trains like vanilla, with a smaller state."""

    trains_like = "vanilla"

    def backbone_options(self):
        return {"d_state": 2}


@pytest.fixture
def narrow():
    names = METHODS.names()
    yield METHODS.add_class(NarrowState)
    METHODS._found = {name: METHODS._found[name] for name in names}


def test_sizes_that_it_decides_are_those_of_its_training(narrow, toy_cells, run_toy, toy_task):
    vanilla, mine = toy_cells("vanilla", narrow, train_steps=[1], query_grid=())
    assert mine.training.method == "vanilla" and mine.training.key != vanilla.training.key
    assert json.loads(mine.training.backbone_params)["d_state"] == 2
    outcome, store = run_toy([vanilla, mine])
    assert not outcome.failed
    rows = {row["method"]: row for row in read([store.root]).table.to_pylist()}
    assert rows[narrow]["d_state"] == 2 != rows["vanilla"]["d_state"]
    for cell in (vanilla, mine):
        model, _, digest = trained_model(cell, toy_task, store.root)
        assert digest == rows[cell.method]["weights_digest"]
        assert model.backbone.blocks[0].A_log.shape[1] == rows[cell.method]["d_state"]
        folder = store.root / "checkpoints" / cell.training.key
        weights, _ = checkpoint.load(checkpoint.weights_path(folder, cell.step))
        assert weights["backbone.blocks.0.A_log"].shape[1] == rows[cell.method]["d_state"]


def test_without_sizes_of_its_own_it_shares_the_training(toy_cells):
    vanilla, shrunk = toy_cells("vanilla", "toy_shrink")
    assert vanilla.training == shrunk.training
