"""A training ends with the same numbers whether alone, beside others, interrupted or killed."""

import json
import math
import os
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from lgbench.cli import app
from lgbench.plan.cells import load_method
from lgbench.run import checkpoint, train
from lgbench.run.schedule import draw_lengths, learning_rate
from lgbench.run.train import Trainer, train_all
from lgbench.store import read
from lgbench.task import Batch

CHECKOUT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _look_often(monkeypatch):
    monkeypatch.setattr(train, "LOG_EVERY", 4)


@pytest.fixture
def make(toy_cells, toy_task, tmp_path):
    """`make("vanilla", folder="a", milestones=(), train_steps=[12], seeds=[0])` → a trainer."""

    def build(method="vanilla", folder="a", milestones=(), **numbers):
        (cell,) = toy_cells(method, **numbers)
        training = cell.training
        plugin = load_method(training.method, training.method_params)
        return Trainer(training, toy_task, plugin, tmp_path / folder, milestones)

    return build


def weights_of(trainer, step=None):
    path = checkpoint.weights_path(trainer.folder, step or trainer.recipe.train_steps)
    return checkpoint.load(path)


def interrupt(trainers, steps):
    """Train until the first of them has done so many more steps, then press Ctrl-C."""
    wanted = trainers[0].step + steps
    with pytest.raises(KeyboardInterrupt):
        train_all(trainers, should_stop=lambda: trainers[0].step >= wanted)
    assert trainers[0].step == wanted


def assert_same(one, other, step=None):
    (weights, facts), (others, other_facts) = weights_of(one, step), weights_of(other, step)
    assert weights.keys() == others.keys()
    for name in weights:
        assert torch.equal(weights[name], others[name]), name
    for fact in ("step", "train_loss", "history"):
        assert facts[fact] == other_facts[fact]


def test_training_learns_the_task(make):
    trainer = make(train_steps=[120])
    assert train_all([trainer]) == {} and trainer.finished
    batch = trainer.task.sample(500, 16, 4, torch.Generator().manual_seed(0))
    with torch.no_grad():
        answers = trainer.model.eval().answer(batch, mode="score", length=16)
    assert trainer.task.loss(answers, batch.targets).mean() < 0.5, "an answer without context is at 1"


def test_weights_are_kept_with_the_facts_of_their_step(make):
    trainer = make(train_steps=[10])
    train_all([trainer])
    weights, facts = weights_of(trainer)
    assert weights.keys() == trainer.model.state_dict().keys()
    assert facts["step"] == 10 and facts["device"] == "cpu"
    assert [step for step, _ in facts["history"]] == [4, 8, 10]
    assert facts["train_loss"] == facts["history"][-1][1]
    assert facts["train_wall_s"] > 0 and facts["train_tokens_per_s"] > 0
    assert not checkpoint.resume_path(trainer.folder).exists()


def test_the_training_loss_is_the_mean_over_the_last_steps_also_at_a_milestone_between_looks(make):
    plain, marked = make(folder="a", train_steps=[10]), make(folder="b", train_steps=[10], milestones=[7])
    every = []
    compute = plain.compute

    def watched(*arguments):
        loss, accuracy = compute(*arguments)
        every.append(loss.item())
        return loss, accuracy

    plain.compute = watched
    train_all([plain])
    train_all([marked])
    assert weights_of(marked, 7)[1]["train_loss"] == pytest.approx(sum(every[3:7]) / 4)
    assert weights_of(marked, 10)[1]["train_loss"] == pytest.approx(sum(every[6:10]) / 4)
    assert weights_of(plain, 10)[1]["train_loss"] == weights_of(marked, 10)[1]["train_loss"]


def test_milestones_are_kept_along_one_training_and_do_not_change_it(make):
    plain = make(folder="a", train_steps=[12])
    marked = make(folder="b", train_steps=[12], milestones=[3, 7])
    train_all([plain])
    train_all([marked])
    for name, tensor in weights_of(plain)[0].items():
        assert torch.equal(tensor, weights_of(marked)[0][name])
    assert [weights_of(marked, step)[1]["step"] for step in (3, 7, 12)] == [3, 7, 12]
    shorter = make(folder="c", train_steps=[7])
    train_all([shorter])
    for name, tensor in weights_of(shorter)[0].items():
        assert torch.equal(tensor, weights_of(marked, 7)[0][name])


def test_several_trainings_side_by_side_end_as_each_alone(make):
    options = [
        dict(method="vanilla", seeds=[0]),
        dict(method="prepended", seeds=[0], train_steps=[9]),
        dict(method="transformer", seeds=[1]),
    ]
    alone = [make(folder=f"alone{k}", **o) for k, o in enumerate(options)]
    together = [make(folder=f"together{k}", **o) for k, o in enumerate(options)]
    for trainer in alone:
        train_all([trainer])
    train_all(together)
    for one, other in zip(alone, together, strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("method", ["vanilla", "prepended", "transformer"])
@pytest.mark.parametrize("steps", [2, 4, 7], ids=["before-a-look", "at-a-look", "after-a-look"])
def test_an_interrupted_training_resumes_to_the_same_numbers_bit_for_bit(make, method, steps):
    whole = make(method, folder="whole")
    train_all([whole])
    first = make(method, folder="cut")
    interrupt([first], steps)
    torch.manual_seed(99)  # whatever the new process has drawn before
    second = make(method, folder="cut")
    assert second.resume() and second.step == steps
    train_all([second])
    assert_same(whole, second)


def test_a_training_interrupted_after_every_step_still_ends_with_the_same_numbers(make):
    whole = make(folder="whole", train_steps=[6], milestones=[3])
    train_all([whole])
    for step in range(1, 6):
        trainer = make(folder="cut", train_steps=[6], milestones=[3])
        assert trainer.resume() == (step > 1)
        interrupt([trainer], 1)
    last = make(folder="cut", train_steps=[6], milestones=[3])
    last.resume()
    train_all([last])
    assert_same(whole, last)
    assert_same(whole, last, step=3)


def test_an_interruption_saves_all_trainings_also_where_one_waits_at_a_milestone(make):
    long, short = make(folder="long"), make(folder="short", milestones=[2])
    interrupt([long, short], 3)
    resumed = [make(folder="long"), make(folder="short", milestones=[2])]
    assert [t.resume() for t in resumed] == [True, True]
    train_all(resumed)
    whole = make(folder="whole")
    train_all([whole])
    for trainer in resumed:
        assert torch.equal(
            weights_of(trainer)[0]["backbone.blocks.0.D"], weights_of(whole)[0]["backbone.blocks.0.D"]
        )


def test_states_are_saved_as_often_as_asked_even_between_looks(make, monkeypatch):
    saved = []
    monkeypatch.setattr(Trainer, "save_resume", lambda self: saved.append(self.step))
    train_all([make(train_steps=[6])], save_every_s=1e-9)
    assert saved == [1, 2, 3, 4, 5]
    saved.clear()
    train_all([make(folder="b", train_steps=[6])], save_every_s=1e9)
    assert saved == []


KILLED = """
import os, signal
from lgbench import cli
from lgbench.run import train
train.LOG_EVERY = 4
keep, saves = train.Trainer.save_resume, []
def save_and_die(self):
    keep(self)
    saves.append(self.step)
    if len(saves) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
train.Trainer.save_resume = save_and_die
cli.main()
"""


def test_a_killed_run_resumes_to_the_same_weights_losses_and_stored_values(toy_options, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    options = [*toy_options, "--method", "vanilla", "--train-steps", "14", "--save-every", "1e-6"]
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"}
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, *options, "--results", str(cut)], env=environment, timeout=120
    )
    assert killed.returncode == -signal.SIGKILL
    assert not list(cut.rglob("*.parquet")) and len(list(cut.rglob("resume.safetensors"))) == 1
    again, straight = (CliRunner().invoke(app, [*options, "--results", str(root)]) for root in (cut, whole))
    assert again.exit_code == straight.exit_code == 0, again.output + straight.output
    assert "14 steps from step 3" in again.stdout and "from step" not in straight.stdout
    (one,), (other,) = (list(root.rglob("step-*.safetensors")) for root in (whole, cut))
    (weights, facts), (others, other_facts) = checkpoint.load(one), checkpoint.load(other)
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert facts["history"] == other_facts["history"]
    same = ["cell", "training", "axis", "eval_length", "num_queries", "value", "item_values", "train_loss"]
    rows, other_rows = (read([root]).table.select(same).to_pylist() for root in (whole, cut))
    assert rows == other_rows and len(rows) > 4


@pytest.mark.parametrize("damage", ["cut in half", "emptied", "overwritten"])
def test_after_a_torn_state_the_training_starts_again_and_ends_with_the_same_numbers(make, damage):
    whole = make(folder="whole")
    train_all([whole])
    trainer = make(folder="torn")
    interrupt([trainer], 5)
    path = checkpoint.resume_path(trainer.folder)
    content = path.read_bytes()
    path.write_bytes(
        {"cut in half": content[: len(content) // 2], "emptied": b"", "overwritten": b"x" * len(content)}[
            damage
        ]
    )
    again = make(folder="torn")
    assert not again.resume() and again.step == 0
    train_all([again])
    assert_same(whole, again)


def test_a_state_that_is_past_a_milestone_whose_weights_are_missing_is_not_used(make):
    trainer = make(milestones=[2])
    interrupt([trainer], 5)
    assert make(milestones=[2]).resume()
    assert make(milestones=[2, 7]).resume()
    assert not make(milestones=[2, 3]).resume()
    checkpoint.weights_path(trainer.folder, 2).unlink()
    assert not make(milestones=[2]).resume()


def test_checkpoints_hold_tensors_and_facts_and_a_missing_file_is_none(tmp_path):
    path = tmp_path / "folder" / "x.safetensors"
    assert checkpoint.load(path) is None
    tensors = {"a": torch.arange(6).reshape(2, 3).t(), "b": torch.tensor(2.0)}
    checkpoint.save(path, tensors, {"step": 3, "history": [[1, 0.5]]})
    loaded, facts = checkpoint.load(path)
    assert torch.equal(loaded["a"], tensors["a"]) and torch.equal(loaded["b"], tensors["b"])
    assert facts == {"step": 3, "history": [[1, 0.5]]}
    assert [p.name for p in path.parent.iterdir()] == ["x.safetensors"]


def test_a_loss_that_is_not_finite_ends_its_own_training_only(make):
    sick = make("toy_trouble[kind=nan,after=5]", folder="sick", milestones=[4])
    fine, alone = make(folder="fine"), make(folder="alone")
    diverged = train_all([sick, fine])
    assert list(diverged) == [sick]
    assert str(diverged[sick]) == "loss became nan before step 8"
    train_all([alone])
    assert_same(fine, alone)
    assert weights_of(sick, 4) is not None and weights_of(sick) is None


def test_progress_is_told_at_every_look(make):
    told = []
    train_all([make(train_steps=[10])], on_progress=lambda t: told.append((t.step, len(t.history))))
    assert told == [(4, 1), (8, 2), (10, 3)]


def test_a_step_counts_the_tokens_that_it_reads(make):
    trainer = make(train_steps=[10], batch_size=3)
    train_all([trainer])
    assert trainer.tokens == 3 * sum(sum(draw_lengths(trainer.training, step)[:2]) for step in range(10))


def test_gradients_are_clipped_to_the_recipes_norm(make):
    """Adam forgives the scale of gradients, so look at what it is given."""
    seen = []
    trainer = make(grad_clip=1e-3)
    update = trainer.optimizer.step

    def spy():
        seen.append(math.sqrt(sum(p.grad.square().sum().item() for p in trainer.parameters)))
        update()

    trainer.optimizer.step = spy
    train_all([trainer])
    assert len(seen) == 12 and max(seen) == pytest.approx(1e-3, rel=1e-3)


def test_the_optimiser_is_adam_without_weight_decay(make):
    trainer = make(learning_rate=1e-2, grad_clip=1e9)
    reference = [p.detach().clone().requires_grad_() for p in trainer.parameters]
    adam = torch.optim.Adam(reference, lr=1e-2, betas=(0.9, 0.999), eps=1e-6)
    update = trainer.optimizer.step

    def both():
        for ours, theirs in zip(trainer.parameters, reference, strict=True):
            theirs.grad = ours.grad.clone()
        adam.step()
        update()

    trainer.optimizer.step = both
    train_all([trainer])
    for ours, theirs in zip(trainer.parameters, reference, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def test_context_lengths_are_uniform_with_both_limits_and_depend_on_seed_and_step_alone(toy_cells):
    (cell,) = toy_cells("truncated[low=5]", train_length=[8], train_queries=(2, 3))
    draws = [draw_lengths(cell.training, step) for step in range(4000)]
    lengths, queries = Counter(n for n, _, _ in draws), Counter(q for _, q, _ in draws)
    assert set(lengths) == {5, 6, 7, 8} and set(queries) == {2, 3}
    assert max(abs(n - 1000) for n in lengths.values()) < 120  # four standard deviations
    assert max(abs(n - 2000) for n in queries.values()) < 130
    assert draw_lengths(cell.training, 17) == draws[17]
    other = replace(cell.training, seed=1)
    assert [draw_lengths(other, step) for step in range(50)] != draws[:50]


def test_the_learning_rate_warms_up_stays_and_falls_linearly_to_zero(toy_cells):
    (cell,) = toy_cells("vanilla", train_steps=[100], warmup_steps=10, decay_from=0.5, learning_rate=2.0)
    rates = [learning_rate(cell.recipe, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.2) and rates[4] == pytest.approx(1.0)
    assert rates[9:51] == [2.0] * 42
    assert rates[75] == pytest.approx(1.0) and rates[99] == pytest.approx(0.04)
    assert all(a > b for a, b in pairwise(rates[50:]))


def test_without_warm_up_and_decay_the_learning_rate_is_constant(toy_cells):
    (cell,) = toy_cells("vanilla", train_steps=[20], learning_rate=3e-4)
    assert {learning_rate(cell.recipe, step) for step in range(20)} == {3e-4}


def test_each_step_uses_its_learning_rate(make):
    trainer = make(train_steps=[6], warmup_steps=3, decay_from=0.5)
    used = []
    update = trainer.optimizer.step

    def spy():
        used.append(trainer.optimizer.param_groups[0]["lr"])
        update()

    trainer.optimizer.step = spy
    train_all([trainer])
    assert used == [learning_rate(trainer.recipe, step) for step in range(6)]


def test_masked_surplus_gives_the_loss_and_gradients_of_the_exact_length(make, monkeypatch):
    """What one captured graph does for a whole bucket of lengths, without a graph."""
    trainer = make()
    drawn = trainer.task.sample(4, 16, 4, torch.Generator().manual_seed(3))
    exact = Batch(
        {"copies": drawn.context["copies"][:, 7:]},
        {"which": drawn.queries["which"][:, :3]},
        drawn.targets[:, :3],
    )
    found = []
    for batch, numbers in ((exact, (9, 3, 9, 3)), (drawn, (torch.tensor(9), torch.tensor(3), 16, 4))):
        monkeypatch.setattr(trainer.task, "sample", lambda *_, batch=batch: batch)
        got = {}
        trainer.optimizer.step = lambda got=got: got.update(
            {name: p.grad.clone() for name, p in trainer.model.named_parameters()}
        )
        got["loss"], _ = trainer.compute(*numbers)
        found.append(got)
    torch.testing.assert_close(*found, atol=1e-6, rtol=1e-4)


def test_facts_are_json(make):
    trainer = make(train_steps=[4])
    train_all([trainer])
    assert json.loads(json.dumps(weights_of(trainer)[1])) == weights_of(trainer)[1]
