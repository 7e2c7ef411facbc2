"""Mamba-2 on a real GPU: its scan against float64, captured training steps, and mamba-ssm's kernels."""

from dataclasses import replace

import pytest
import torch
from lgbench.methods.state_passing import StatePassing
from lgbench.methods.vanilla import Vanilla
from lgbench.tasks.omniglot import Omniglot

from lgbench.ops.ssd.ssd import resolve_ssd_backend, ssd
from lgbench.plan.cells import Training
from lgbench.run import checkpoint
from lgbench.run.graphs import Eager
from lgbench.run.train import Trainer, train_all

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)


def inputs(batch, length, heads, head_dim, d_state):
    """Keyword arguments in float32: Δ log-uniform in [0.001, 0.1], A in [-16, -1], as at the start."""
    torch.manual_seed(length)
    like = {"device": "cuda"}
    return {
        "x": torch.randn(batch, length, heads, head_dim, **like),
        "delta": 0.001 * 100 ** torch.rand(batch, length, heads, **like),
        "A": -1 - 15 * torch.rand(heads, **like),
        "B": torch.randn(batch, length, d_state, **like),
        "C": torch.randn(batch, length, d_state, **like),
        "D": torch.randn(heads, **like),
        "h0": torch.randn(batch, heads, head_dim, d_state, **like),
    }


def double(values):
    return {name: v.detach().double() for name, v in values.items()}


def error(got, wanted):
    return ((got.double() - wanted).norm() / wanted.norm()).item()


def outputs_and_gradients(values, **options):
    leaves = {name: v.clone().requires_grad_() for name, v in values.items()}
    out = ssd(**leaves, **options)
    (out.y.square().sum() + out.state.square().sum()).backward()
    return {"y": out.y.detach(), "state": out.state.detach()} | {n: v.grad for n, v in leaves.items()}


@pytest.mark.parametrize(
    "shape",
    [(3, 100, 4, 8, 8), (1, 131_072, 4, 8, 8), (2, 5000, 24, 64, 128)],
    ids=["small", "128K tokens", "sizes of 130M"],
)
def test_values_and_gradients_in_float32_are_those_of_float64(shape):
    values = inputs(*shape)
    wanted, got = outputs_and_gradients(double(values)), outputs_and_gradients(values)
    assert {name: e for name in wanted if not (e := error(got[name], wanted[name])) < 2e-5} == {}


def test_the_recurrence_itself_agrees():
    values = inputs(2, 300, 4, 8, 8)
    wanted = ssd(**double(values), backend="reference")
    got = ssd(**values)
    assert error(got.y, wanted.y) < 1e-6 and error(got.state, wanted.state) < 1e-6


def test_mamba_ssm_agrees_as_far_as_tf32_goes():
    try:
        resolve_ssd_backend("mamba_ssm", "cuda")
    except ValueError as error_:
        pytest.skip(str(error_))
    values = inputs(2, 600, 8, 64, 64)
    wanted = outputs_and_gradients(double(values))
    got = outputs_and_gradients(values, backend="mamba_ssm")
    assert {name: e for name in wanted if not (e := error(got[name], wanted[name])) < 5e-3} == {}


@pytest.fixture(scope="module")
def task():
    task = Omniglot(Omniglot.Params(data="procedural"))
    task.prepare(torch.device("cuda"))
    return task


@pytest.fixture
def make(task, tmp_path):
    """`make("a", StatePassing())` → a trainer of 120 steps on Mamba-2 with contexts of 1 to 64 tokens."""

    def build(folder, method=None):
        recipe = replace(task.recipe("smoke", "causal"), train_steps=120, train_queries=(8, 16))
        training = Training(
            task_identity="v1", method_identity="v1",
            backbone="mamba2", backbone_params="{}", backbone_identity="v1",
            task="omniglot", task_params="{}", data_fingerprint=task.data_fingerprint, method="test",
            method_params="{}", low=1, high=64, recipe=recipe, seed=0,
        )  # fmt: skip
        return Trainer(training, task, method or Vanilla(), tmp_path / folder)

    return build


def weights(trainer):
    return checkpoint.load(checkpoint.weights_path(trainer.folder, 120))[0]


def test_masked_padding_changes_neither_loss_nor_gradients(make, task):
    model = make("a").model.eval()
    length, drawn = 37, 64
    batch = task.sample(4, drawn, 16, torch.Generator("cuda").manual_seed(1))
    exact = type(batch)(
        {name: t[:, drawn - length :] for name, t in batch.context.items()}, batch.queries, batch.targets
    )
    found = []
    for one, mask in ((exact, None), (batch, torch.arange(drawn, device="cuda") >= drawn - length)):
        model.zero_grad(set_to_none=True)
        answer = model.answer(one, mode="train", length=length, context_mask=mask)
        loss = task.loss(answer, one.targets).mean()
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in model.parameters())])
    for wanted, got in zip(*found, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", [Vanilla(), StatePassing()], ids=lambda m: type(m).__name__)
def test_captured_steps_learn_and_end_with_the_same_weights_after_an_interruption(make, method):
    whole, part = make("whole", method), make("part", method)
    assert not isinstance(whole.stepper, Eager) and train_all([whole]) == {}
    assert whole.history[-1][1] < 0.8 * whole.history[0][1]
    with pytest.raises(KeyboardInterrupt):
        train_all([part], should_stop=lambda: part.step >= 100)
    again = make("part", method)
    assert again.resume() and again.step == 100
    train_all([again])
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(again)[name]), name
