"""Stacked trainings end with the numbers of a stack of one, however they are saved and resumed."""

from dataclasses import replace

import pytest
import torch

from lgbench.plan.cells import Training, load_method, load_task
from lgbench.plan.params import PluginRequest
from lgbench.run import checkpoint
from lgbench.run.stack import Stack, fits
from lgbench.run.train import Trainer, train_all


@pytest.fixture(scope="module")
def task():
    task = load_task(PluginRequest("omniglot", {"data": "procedural"}))
    task.prepare(torch.device("cpu"))
    return task


@pytest.fixture
def make(task, tmp_path):
    """`make(seed, folder)` → a trainer of 6 steps with contexts of 1 to 24 tokens."""

    def build(seed=0, folder="a", method="vanilla", milestones=(), **numbers):
        small = dict(num_layers=2, batch_size=2, train_steps=6, train_queries=(2, 4), warmup_steps=2)
        recipe = replace(task.recipe("smoke", "causal"), **small | numbers)
        training = Training(
            task="omniglot", task_params="{}", task_identity="v1", data_fingerprint=task.data_fingerprint,
            method=method, method_identity="v1",
            backbone="mamba", backbone_params="{}", backbone_identity="v1",
            method_params="{}", low=1, high=24, recipe=recipe, seed=seed,
        )  # fmt: skip
        return Trainer(training, task, load_method(method, "{}"), tmp_path / folder / str(seed), milestones)

    return build


def train(trainers, steps=None):
    """All in one stack; with `steps`, press Ctrl-C after so many."""
    Stack(trainers)
    if steps is None:
        return train_all(trainers)
    with pytest.raises(KeyboardInterrupt):
        train_all(trainers, should_stop=lambda: trainers[0].step >= steps)


def kept(trainer, step=6):
    return checkpoint.load(checkpoint.weights_path(trainer.folder, step))


def assert_same(one, other, step=6):
    (weights, facts), (others, other_facts) = kept(one, step), kept(other, step)
    for name, value in weights.items():
        assert torch.equal(value, others[name]), name
    assert facts["history"] == other_facts["history"]


def test_each_training_of_a_stack_ends_as_in_a_stack_of_one(make):
    together = [make(seed, "together") for seed in range(3)]
    train(together)
    for seed in range(3):
        alone = make(seed, "alone")
        train([alone])
        assert_same(alone, together[seed])


def test_a_stack_trains_what_a_training_by_itself_trains(make, monkeypatch):
    """The same items with the surplus masked, through the plain model; only sums are in another order."""
    stacked, plain = make(folder="stacked"), make(folder="plain")
    train([stacked])
    monkeypatch.setattr("lgbench.run.train.draw_lengths", lambda *_: (24, 4, 0))
    monkeypatch.setattr("lgbench.run.stack.draw_lengths", lambda *_: (24, 4, 0))
    stacked, plain = make(folder="stacked"), make(folder="plain")
    train([stacked])
    train_all([plain])
    assert stacked.stack is not None and plain.stack is None
    for name, value in kept(plain)[0].items():
        torch.testing.assert_close(kept(stacked)[0][name], value, rtol=1e-4, atol=1e-5)
    assert stacked.tokens == plain.tokens == 6 * 2 * 28


def test_members_of_a_stack_resume_alone_and_in_another_stack(make):
    whole = [make(seed, "whole") for seed in range(3)]
    train(whole)
    train([make(seed, "cut") for seed in range(3)], steps=3)
    again = [make(seed, "cut") for seed in range(3)]
    assert all(trainer.resume() and trainer.step == 3 for trainer in again)
    train(again[1:2])
    train([again[2], again[0]])
    for one, other in zip(whole, again, strict=True):
        assert_same(one, other)


def test_a_state_may_be_loaded_after_stacking(make):
    whole = make(folder="whole")
    train([whole])
    train([make(folder="cut")], steps=4)
    again = make(folder="cut")
    Stack([again])
    assert again.resume()
    train_all([again])
    assert_same(whole, again)


def test_each_member_keeps_its_own_milestones(make):
    first, second = make(0, "a", milestones=[2]), make(1, "a", milestones=[5])
    train([first, second])
    alone = make(1, "b", milestones=[5])
    train([alone])
    assert kept(first, 2) is not None and kept(second, 2) is None
    assert_same(alone, second, step=5)
    assert_same(alone, second)


def test_a_member_that_diverges_leaves_the_others_as_they_are(make):
    sick, fine = make(0, "a"), make(1, "a")
    Stack([sick, fine])
    with torch.no_grad():
        sick.parameters[0][0] = float("nan")
    diverged = train_all([sick, fine])
    alone = make(1, "b")
    train([alone])
    assert list(diverged) == [sick] and kept(sick) is None
    assert_same(alone, fine)


@pytest.mark.parametrize(
    ("method", "numbers", "fit"),
    [
        ("vanilla", {}, True),
        ("prepended", {}, False),
        ("vanilla", {"weight_decay": 0.1}, False),
        ("vanilla", {"precision": "bfloat16"}, False),
    ],
)
def test_only_trainings_that_the_kernels_serve_are_stacked(make, method, numbers, fit):
    assert fits(make(method=method, **numbers)) == fit
