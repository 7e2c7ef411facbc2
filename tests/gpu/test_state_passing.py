"""Passed states live in captured training steps: exact after an interruption, absent where they are reset."""

from dataclasses import replace

import pytest
import torch
from lgbench.methods.state_passing import StatePassing
from lgbench.tasks.omniglot import Omniglot

from lgbench.plan.cells import Training
from lgbench.run import checkpoint
from lgbench.run.train import Trainer, train_all

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)

SOURCES = ("state", "noise", "fitted_noise", "tbptt")


@pytest.fixture(scope="module")
def task():
    task = Omniglot(Omniglot.Params(data="procedural"))
    task.prepare(torch.device("cuda"))
    return task


@pytest.fixture
def make(task, tmp_path):
    """`make("a", source="noise")` → a trainer of 120 steps with contexts of 1 to 64 tokens."""

    def build(folder, **params):
        recipe = replace(task.recipe("smoke", "causal"), train_steps=120)
        training = Training(
            task_identity="v1", method_identity="v1",
            backbone="mamba", backbone_params="{}", backbone_identity="v1",
            task="omniglot", task_params="{}", data_fingerprint=task.data_fingerprint, method="test",
            method_params="{}", low=1, high=64, recipe=recipe, seed=0,
        )  # fmt: skip
        return Trainer(training, task, StatePassing(StatePassing.Params(**params)), tmp_path / folder)

    return build


@pytest.mark.parametrize("source", SOURCES)
def test_an_interrupted_training_ends_with_the_same_weights(make, source):
    whole, part = make("whole", source=source), make("part", source=source)
    assert train_all([whole]) == {}
    with pytest.raises(KeyboardInterrupt):
        train_all([part], should_stop=lambda: part.step >= 100)
    again = make("part", source=source)
    assert again.resume() and again.step == 100
    train_all([again])
    path = lambda trainer: checkpoint.weights_path(trainer.folder, 120)  # noqa: E731
    (wanted, _), (got, _) = checkpoint.load(path(whole)), checkpoint.load(path(again))
    for name, value in wanted.items():
        assert torch.equal(value, got[name]), name


def test_capturing_a_step_leaves_the_passed_states_to_the_step_itself(make):
    """The warm-up before a capture runs the step once; states must be those of one step, not of two."""
    trainer = make("a", source="state")
    starts, first = [], trainer.model.intervention.initial_state
    trainer.model.intervention.initial_state = lambda layer: starts.append(layer) or first(layer)
    trainer.one_step()
    torch.cuda.synchronize()
    assert len(starts) == 2 * trainer.recipe.num_layers, "once to warm up, once to capture"
    states = trainer.carried["states"]
    assert states.isfinite().all() and (states != 0).any()
    before = states.clone()
    trainer.one_step()
    torch.cuda.synchronize()
    assert not torch.equal(states, before)
