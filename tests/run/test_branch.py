"""A branch takes over the state of the long training and ends as if it had trained alone, bit for bit."""

from dataclasses import replace

import pytest
import torch

from lgbench.errors import UserError
from lgbench.launchers import local
from lgbench.plan.axes import branch
from lgbench.plan.cells import checkpoint_folder, load_method
from lgbench.run import checkpoint, train
from lgbench.run.branch import shared_steps, trunks
from lgbench.run.schedule import learning_rate
from lgbench.run.train import Trainer, train_all
from lgbench.store import read

QUICK = dict(train_steps=[12], decay_from=[0.5], eval_lengths=(1, 16), query_grid=())


@pytest.fixture(autouse=True)
def _look_often(monkeypatch):
    monkeypatch.setattr(train, "LOG_EVERY", 3)


@pytest.fixture
def begun(monkeypatch):
    """(train_steps, step at which it began) of all trainings, in order."""
    found, start = [], local.train_all

    def watched(trainers, **options):
        found.extend((t.recipe.train_steps, t.step) for t in trainers)
        return start(trainers, **options)

    monkeypatch.setattr(local, "train_all", watched)
    return found


def weights(store, training):
    path = checkpoint.weights_path(checkpoint_folder(store.root, training), training.recipe.train_steps)
    return checkpoint.load(path)


@pytest.mark.parametrize("method", ["vanilla", "transformer"])
def test_a_branch_ends_bit_for_bit_as_a_direct_training_with_its_schedule(
    toy_cells, toy_task, run_toy, begun, tmp_path, method
):
    cells = toy_cells(method, branch_decay_at=[2, 4], **QUICK)
    assert [cell.recipe.train_steps for cell in cells] == [12, 4, 8]
    outcome, store = run_toy(cells, side_by_side=4)
    assert outcome.failed == [] and begun == [(12, 0), (4, 2), (8, 4)]
    for cell in cells:
        training = cell.training
        plugin = load_method(training.method, training.method_params)
        alone = Trainer(training, toy_task, plugin, tmp_path / "alone" / training.key)
        train_all([alone])
        ours, facts = weights(store, training)
        theirs, direct = checkpoint.load(checkpoint.weights_path(alone.folder, cell.step))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
        assert (facts["train_loss"], facts["history"]) == (direct["train_loss"], direct["history"])
    assert not list(store.root.rglob("resume*")), "a finished training leaves no state"


def test_with_a_constant_rate_a_shorter_training_is_a_stop_on_the_way(
    toy_cells, toy_task, run_toy, begun, tmp_path
):
    numbers = QUICK | {"train_steps": [8, 12], "decay_from": [1.0]}
    short, long = toy_cells("vanilla", **numbers)
    outcome, store = run_toy([short, long])
    assert outcome.failed == [] and begun == [(12, 0)]
    plugin = load_method("vanilla", "{}")
    alone = Trainer(short.training, toy_task, plugin, tmp_path / "alone")
    train_all([alone])
    ours, facts = weights(store, short.training)
    theirs, direct = checkpoint.load(checkpoint.weights_path(alone.folder, 8))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert (facts["train_loss"], facts["history"]) == (direct["train_loss"], direct["history"])


def test_a_branch_has_the_key_of_the_direct_training_and_rows_of_its_own(toy_cells, run_toy):
    cells = toy_cells("vanilla", branch_decay_at=[4], **QUICK)
    (direct,) = toy_cells("vanilla", **QUICK | {"train_steps": [8]})
    assert cells[1] == direct and cells[1].key == direct.key
    _, store = run_toy(cells)
    rows = read([store.root]).table.to_pylist()
    assert {(row["train_steps"], row["step"]) for row in rows} == {(12, 12), (8, 8)}


def test_the_rate_of_a_branch_is_that_of_the_long_training_until_it_falls_to_zero(toy_cells):
    (cell,) = toy_cells("vanilla", **QUICK | {"train_steps": [1000], "decay_from": [0.7]})
    for step in (1, 99, 333, 699):
        short = branch(cell.recipe, step)
        shared = shared_steps(replace(cell.training, recipe=short))
        assert abs(shared - step) <= 1
        rates = [(learning_rate(short, at), learning_rate(cell.recipe, at)) for at in range(shared)]
        assert all(one == other for one, other in rates)
        assert learning_rate(short, shared + 1) < learning_rate(cell.recipe, shared + 1) or step == 699
        assert short.train_steps == round(step / 0.7)


def test_a_branch_without_a_state_trains_from_the_start(toy_cells, run_toy, begun):
    cells = toy_cells("vanilla", branch_decay_at=[4], **QUICK)
    run_toy(cells[:1])
    outcome, _ = run_toy(cells)
    assert outcome.failed == [] and begun == [(12, 0), (8, 0)]


def test_trainings_with_another_schedule_or_seed_share_nothing(toy_cells):
    def found(**numbers):
        return trunks([cell.training for cell in toy_cells("vanilla", **QUICK | numbers)])

    assert len(found(train_steps=[8, 12])) == 1
    assert (
        found(decay_from=[0.5, 1.0])
        == found(seeds=[0, 1])
        == found(decay_from=[0.0], train_steps=[8, 12])
        == {}
    )


def test_a_method_whose_steps_depend_on_their_number_does_not_branch(toy_cells, run_toy, begun):
    cells = toy_cells("state_passing", branch_decay_at=[4], **QUICK)
    outcome, _ = run_toy(cells)
    assert outcome.failed == [] and begun == [(12, 0), (8, 0)]


@pytest.mark.parametrize(
    ("numbers", "complaint"),
    [
        ({"decay_from": [1.0]}, "--branch-decay-at 4: the learning rate of this training never falls"),
        ({"decay_from": [0.25]}, "--branch-decay-at 4 is not between the beginning"),
        ({"branch_decay_at": [0]}, "--branch-decay-at 0 is not between"),
    ],
)
def test_a_branch_that_cannot_be_is_refused_in_one_line(toy_cells, numbers, complaint):
    with pytest.raises(UserError, match=complaint):
        toy_cells("vanilla", **QUICK | {"branch_decay_at": [4]} | numbers)
