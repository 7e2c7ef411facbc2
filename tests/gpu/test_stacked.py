"""Stacked trainings on a real GPU: each has the bits that it has alone, whatever is beside it."""

from dataclasses import replace

import pytest
import torch
from lgbench.methods.vanilla import Vanilla
from lgbench.tasks.omniglot import Omniglot

from lgbench.ops.block.mamba_block import plain_block
from lgbench.ops.block.stacked import Sizes, _named, chunk_of, stacked_blocks
from lgbench.plan.cells import Training
from lgbench.run import checkpoint
from lgbench.run.stack import Stack
from lgbench.run.train import Trainer, train_all

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)

SIZES = Sizes(num_layers=2, d_model=16, d_inner=32, d_state=8, dt_rank=1)
LENGTHS, BATCH, LONGEST = (300, 17, 165), 4, 400


@pytest.fixture(scope="module")
def task():
    task = Omniglot(Omniglot.Params(data="procedural"))
    task.prepare(torch.device("cuda"))
    return task


@pytest.fixture
def make(task, tmp_path):
    """`make(seed, folder)` → a trainer of 120 steps with contexts of 1 to 200 tokens."""

    def build(seed, folder, milestones=()):
        small = dict(train_steps=120, train_queries=(8, 16), batch_size=16, num_layers=4)
        recipe = replace(task.recipe("smoke", "causal"), **small)
        training = Training(
            task_identity="v1", method_identity="v1",
            backbone="mamba", backbone_params="{}", backbone_identity="v1",
            task="omniglot", task_params="{}", data_fingerprint=task.data_fingerprint, method="vanilla",
            method_params="{}", low=1, high=200, recipe=recipe, seed=seed,
        )  # fmt: skip
        return Trainer(training, task, Vanilla(), tmp_path / folder / str(seed), milestones)

    return build


def assert_same(one, other, step=120):
    (weights, facts), (others, other_facts) = (
        checkpoint.load(checkpoint.weights_path(t.folder, step)) for t in (one, other)
    )
    for name, value in weights.items():
        assert torch.equal(value, others[name]), name
    assert facts["history"] == other_facts["history"]


def real(model):
    generator = torch.Generator().manual_seed(model)
    shape = (BATCH, LENGTHS[model], 16)
    return torch.randn(shape, generator=generator).cuda(), torch.randn(shape, generator=generator).cuda()


def weights(model):
    generator = torch.Generator().manual_seed(50 + model)
    return 0.3 * torch.randn(2 * SIZES.numbers(), generator=generator).cuda()


def run(models, chunks):
    """Of each model: what its tokens become, and the gradients of these and of its weights."""
    chunk = chunk_of(BATCH, LONGEST, SIZES)
    length = chunks * chunk
    tokens = torch.full((len(models) * BATCH, length, 16), 2.0, device="cuda")
    pull = torch.zeros_like(tokens)
    for k, model in enumerate(models):
        mine = slice(k * BATCH, (k + 1) * BATCH), slice(length - LENGTHS[model], length)
        tokens[mine], pull[mine] = real(model)
    rows = torch.stack([weights(m) for m in models]).requires_grad_()
    first = torch.tensor([length - LENGTHS[m] for m in models], device="cuda")
    starts = torch.stack([first, first // chunk * chunk]).int()
    out = stacked_blocks(tokens.requires_grad_(), rows, starts, SIZES, 1e-5, LONGEST)
    by_tokens, by_rows = torch.autograd.grad(out, [tokens, rows], pull)
    return {
        m: (
            out.detach().unflatten(0, (-1, BATCH))[k, :, length - LENGTHS[m] :],
            by_tokens.unflatten(0, (-1, BATCH))[k, :, length - LENGTHS[m] :],
            by_rows[k],
        )
        for k, m in enumerate(models)
    }


def test_blocks_of_a_stack_are_the_plain_blocks_in_float64():
    for model, found in run((0, 1, 2), 25).items():
        tokens, pull = (t.double() for t in real(model))
        row = weights(model).double().requires_grad_()
        out = tokens.requires_grad_()
        for block in row.split(SIZES.numbers()):
            out, _ = plain_block(out, tuple(_named(block, SIZES).values()), 1e-5, None, None)
        expected = (out.detach(), *torch.autograd.grad(out, [tokens, row], pull))
        for got, exact in zip(found, expected, strict=True):
            assert torch.isfinite(got).all()
            assert (got.double() - exact).norm() <= 1e-5 * exact.norm()


def test_blocks_have_the_same_bits_beside_others_and_padded_as_alone():
    beside = run((0, 2, 1), 25)
    for model, chunks in ((0, 19), (1, 2), (2, 11)):
        alone = run((model,), chunks)[model]
        for got, expected in zip(beside[model], alone, strict=True):
            assert torch.equal(got, expected)


def test_each_training_of_a_stack_ends_as_alone_bit_for_bit(make):
    together = [make(seed, "together", milestones=[50 + seed]) for seed in range(3)]
    assert train_all(together) == {}
    assert together[0].stack is together[2].stack is not None
    for seed in range(3):
        alone = make(seed, "alone", milestones=[50 + seed])
        assert train_all([alone]) == {} and alone.stack is not together[0].stack
        assert_same(alone, together[seed])
        assert_same(alone, together[seed], step=50 + seed)
    assert together[1].history[-1][1] < 0.9 * together[1].history[0][1]


def test_a_captured_step_is_an_eager_one(make, monkeypatch):
    captured, eager = make(0, "captured"), make(0, "eager")
    train_all([captured])
    monkeypatch.setattr("lgbench.run.stack.capture", lambda *_: (None, None))
    train_all([eager])
    assert_same(captured, eager)


def test_members_resume_alone_and_in_another_stack(make):
    whole = [make(seed, "whole") for seed in range(3)]
    train_all(whole)
    part = [make(seed, "part") for seed in range(3)]
    with pytest.raises(KeyboardInterrupt):
        train_all(part, should_stop=lambda: part[0].step >= 60)
    again = [make(seed, "part") for seed in range(3)]
    assert all(trainer.resume() and trainer.step == 60 for trainer in again)
    train_all(again[1:2])
    train_all([again[2], again[0]])
    for one, other in zip(whole, again, strict=True):
        assert_same(one, other)


def test_a_member_that_diverges_leaves_the_others_as_they_are(make):
    sick, fine, alone = make(0, "a"), make(1, "a"), make(1, "b")
    Stack([sick, fine])
    with torch.no_grad():
        sick.parameters[0][0] = float("nan")
    torch.cuda.synchronize()
    assert list(train_all([sick, fine])) == [sick]
    train_all([alone])
    assert_same(alone, fine)
