"""The Mamba block against its definition in float64: plain PyTorch, and the kernels in Triton's interpreter.

Triton decides when a kernel is defined whether it is interpreted. So the tests of the kernels run in a
process of their own, which the first test starts. To run them directly:

    TRITON_INTERPRET=1 python -m pytest tests/ops/block/test_mamba_block.py
"""

import os

import pytest
import torch
from torch import Tensor

from lgbench.ops.block import mamba_block as block
from lgbench.ops.block.mamba_block import mamba_block, plain_block, supports

WEIGHTS = ("norm_weight", "in_proj", "x_proj", "dt_weight", "dt_bias", "A_log", "D", "out_proj")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
interpreted = pytest.mark.skipif(not INTERPRETED, reason="runs in the process that the first test starts")


@pytest.mark.skipif(INTERPRETED, reason="this is that process")
def test_all_claims_about_the_kernels_hold_in_the_interpreter(interpret):
    result = interpret(__file__)
    assert result.returncode == 0, result.stdout + result.stderr


def make_inputs(
    batch: int, length: int, d_model: int = 16, d_inner: int = 32, d_state: int = 8, dt_rank: int = 1
):
    """Float64 tokens, first state and weights; time steps around 0.1, decays about those of a fresh model."""
    generator = torch.Generator().manual_seed(1000 * length + d_state)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    weights = {
        "norm_weight": 1 + 0.2 * normal(d_model),
        "in_proj": 0.4 * normal(2 * d_inner, d_model),
        "x_proj": 0.4 * normal(dt_rank + 2 * d_state, d_inner),
        "dt_weight": normal(d_inner, dt_rank),
        "dt_bias": normal(d_inner) - 2,
        "A_log": torch.log(1 + torch.arange(d_state)).double() + 0.1 * normal(d_inner, d_state),
        "D": 1 + 0.1 * normal(d_inner),
        "out_proj": 0.2 * normal(d_model, d_inner),
    }
    return normal(batch, length, d_model), normal(batch, d_inner, d_state), weights


def by_definition(tokens: Tensor, h0: Tensor, weights: dict[str, Tensor], mask: Tensor | None):
    """The block, one token after the other; a token that the mask leaves out passes unchanged."""
    w = weights
    u = tokens / (tokens.square().mean(-1, keepdim=True) + 1e-5).sqrt() * w["norm_weight"]
    a, z = (u @ w["in_proj"].T).chunk(2, -1)
    s = a * torch.sigmoid(a)
    dt_rank, d_state = w["dt_weight"].shape[1], w["A_log"].shape[1]
    tau, B, C = (s @ w["x_proj"].T).split([dt_rank, d_state, d_state], -1)
    delta = torch.log1p(torch.exp(tau @ w["dt_weight"].T + w["dt_bias"]))
    real = torch.ones(tokens.shape[:2], dtype=torch.bool) if mask is None else mask.expand(tokens.shape[:2])
    delta = torch.where(real[..., None], delta, 0.0)
    h, out = h0, []
    for t in range(tokens.shape[1]):
        decay = torch.exp(-delta[:, t, :, None] * torch.exp(w["A_log"]))
        h = decay * h + (delta[:, t] * s[:, t])[..., None] * B[:, t, None, :]
        y = (h * C[:, t, None, :]).sum(-1) + w["D"] * s[:, t]
        step = (y * z[:, t] * torch.sigmoid(z[:, t])) @ w["out_proj"].T
        out.append(tokens[:, t] + torch.where(real[:, t, None], step, 0.0))
    return torch.stack(out, 1), h


def results_and_gradients(run, inputs, mask: Tensor | None, dtype: torch.dtype, with_h0: bool = True):
    """Both results of `run`, then the gradients of tokens, first state and weights, for a fixed pull."""
    tokens, h0, weights = inputs
    tokens, h0, *values = (leaf.to(dtype).requires_grad_() for leaf in (tokens, h0, *weights.values()))
    results = run(tokens, h0 if with_h0 else None, dict(zip(weights, values, strict=True)), mask)
    generator = torch.Generator().manual_seed(7)
    pulls = [torch.randn(r.shape, generator=generator, dtype=torch.float64).to(dtype) for r in results]
    leaves = [tokens, *([h0] if with_h0 else []), *values]
    return [r.detach() for r in results] + list(torch.autograd.grad(results, leaves, pulls))


def fused(tokens, h0, weights, mask):
    return mamba_block(tokens, **weights, h0=h0, mask=mask)


def plain(tokens, h0, weights, mask):
    return plain_block(tokens, tuple(weights.values()), 1e-5, h0, mask)


def from_zero(tokens, h0, weights, mask):
    d_inner, d_state = weights["A_log"].shape
    return by_definition(tokens, tokens.new_zeros(len(tokens), d_inner, d_state), weights, mask)


def assert_close(got: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    for place, (a, b) in enumerate(zip(got, expected, strict=True)):
        assert torch.isfinite(a).all(), f"tensor {place} is not finite"
        assert (a.double() - b).norm() <= tolerance * b.norm() + 1e-12, f"tensor {place} differs"


def make_mask(kind: str, batch: int, length: int) -> Tensor | None:
    steps = torch.arange(length)
    return {
        "none": None,
        "left": steps >= length // 2,
        "left by item": steps >= torch.tensor([0, length - 1, length // 3])[:batch, None],
        "random": torch.rand(batch, length, generator=torch.Generator().manual_seed(3)) > 0.4,
        "all": torch.zeros(batch, length, dtype=torch.bool),
    }[kind]


@pytest.mark.parametrize("length", [1, 2, 63])
@pytest.mark.parametrize("kind", ["none", "left", "random", "all"])
def test_plain_path_is_the_definition(length, kind):
    inputs, mask = make_inputs(2, length, d_inner=24, d_state=3, dt_rank=3), make_mask(kind, 2, length)
    expected = results_and_gradients(by_definition, inputs, mask, torch.float64)
    assert_close(results_and_gradients(plain, inputs, mask, torch.float64), expected, 1e-9)


@interpreted
@pytest.mark.parametrize(
    ("batch", "length", "sizes"),
    [
        pytest.param(1, 1, {}, id="B1-L1"),
        pytest.param(2, 2, {}, id="B2-L2"),
        pytest.param(1, 63, {}, id="B1-L63"),
        pytest.param(2, 17, {"d_state": 2}, id="B2-L17-N2"),
        pytest.param(1, 9, {"d_state": 16}, id="B1-L9-N16"),
        pytest.param(1, 9, {"d_model": 32, "d_inner": 64, "dt_rank": 2}, id="B1-L9-d32-E64-R2"),
    ],
)
def test_kernels_are_the_definition(batch, length, sizes):
    inputs = make_inputs(batch, length, **sizes)
    expected = results_and_gradients(by_definition, inputs, None, torch.float64)
    assert_close(results_and_gradients(fused, inputs, None, torch.float32), expected, 5e-6)


@interpreted
@pytest.mark.parametrize("kind", ["left by item", "random", "all"])
def test_kernels_leave_masked_tokens_and_the_state_alone(kind):
    inputs, mask = make_inputs(3, 19), make_mask(kind, 3, 19)
    expected = results_and_gradients(by_definition, inputs, mask, torch.float64)
    assert_close(results_and_gradients(fused, inputs, mask, torch.float32), expected, 5e-6)
    out, _ = fused(*(leaf.float() for leaf in inputs[:2]), {k: v.float() for k, v in inputs[2].items()}, mask)
    assert torch.equal(out[~mask], inputs[0].float()[~mask])


@interpreted
@pytest.mark.parametrize("shift", [-8, 4], ids=["short", "long"])
def test_kernels_are_the_definition_for_time_steps_of_any_size(shift):
    tokens, h0, weights = make_inputs(1, 21)
    inputs = tokens, h0, weights | {"dt_bias": weights["dt_bias"] + shift}
    expected = results_and_gradients(by_definition, inputs, None, torch.float64)
    assert_close(results_and_gradients(fused, inputs, None, torch.float32), expected, 5e-6)


@interpreted
def test_kernels_start_from_zero_without_a_first_state():
    inputs = make_inputs(1, 65)
    got = results_and_gradients(fused, inputs, None, torch.float32, with_h0=False)
    assert_close(got, results_and_gradients(from_zero, inputs, None, torch.float64, with_h0=False), 5e-6)


@interpreted
def test_a_sequence_in_two_calls_is_the_sequence_in_one():
    tokens, h0, weights = make_inputs(1, 257)
    tokens, h0, weights = (
        tokens.float(),
        h0.float(),
        {name: weight.float() for name, weight in weights.items()},
    )
    with torch.no_grad():
        whole, last = fused(tokens, h0, weights, None)
        first, between = fused(tokens[:, :130], h0, weights, None)
        second, end = fused(tokens[:, 130:], between, weights, None)
    assert_close([torch.cat([first, second], 1), end], [whole.double(), last.double()], 2e-6)
    expected, state = by_definition(*make_inputs(1, 257), None)
    assert_close([whole, last], [expected, state], 5e-6)


@interpreted
def test_padding_on_the_left_changes_nothing():
    tokens, h0, weights = make_inputs(1, 10)
    tokens, h0, weights = (
        tokens.float(),
        h0.float(),
        {name: weight.float() for name, weight in weights.items()},
    )
    padded = torch.cat([torch.full((1, 7, 16), 3.0), tokens], 1)
    with torch.no_grad():
        out, last = fused(tokens, h0, weights, None)
        out_padded, last_padded = fused(padded, h0, weights, torch.arange(17) >= 7)
    assert_close([out_padded[:, 7:], last_padded], [out.double(), last.double()], 1e-6)


@interpreted
def test_kernels_are_the_definition_where_a_program_takes_several_tiles(monkeypatch):
    from lgbench.ops.block import triton_block as kernels

    plan = kernels.plan
    several = {"projection_tiles": 2, "prepare_tiles": 2}
    monkeypatch.setattr(kernels, "plan", lambda *sizes: plan(*sizes)._replace(**several))
    inputs = make_inputs(1, 45)
    expected = results_and_gradients(by_definition, inputs, None, torch.float64)
    assert_close(results_and_gradients(fused, inputs, None, torch.float32), expected, 5e-6)


@interpreted
def test_kernels_take_what_is_not_contiguous():
    tokens, h0, weights = make_inputs(2, 9)
    strided = tokens.transpose(0, 1).contiguous().transpose(0, 1), h0.mT.contiguous().mT, weights
    assert not strided[0].is_contiguous() and not strided[1].is_contiguous()
    expected = results_and_gradients(by_definition, (tokens, h0, weights), None, torch.float64)
    assert_close(results_and_gradients(fused, strided, None, torch.float32), expected, 5e-6)


def test_chunks_cover_every_token_once():
    plan = pytest.importorskip("lgbench.ops.block.triton_block", exc_type=ImportError).plan
    for batch, length in ((1, 1), (64, 1537), (64, 2049), (1, 1_048_576), (4096, 7), (3, 100_003)):
        cut = plan(batch, length, 256)
        assert cut.num_chunks * cut.chunk >= length
        assert (cut.num_chunks - 1) * cut.chunk < length
        assert cut.total_chunks == batch * cut.num_chunks
        assert cut.projection_tiles * 16 * 8 * 132 >= batch * length


@pytest.mark.parametrize(("batch", "length"), [(0, 5), (2, 0)])
def test_nothing_in_gives_nothing_out(batch, length):
    tokens, h0, weights = make_inputs(batch, length)
    out, last = plain(tokens, h0, weights, None)
    assert out.shape == tokens.shape
    assert torch.equal(last, h0)


def test_sizes_beyond_small_models_take_the_plain_path(monkeypatch):
    def refuse(*args):
        raise AssertionError("the fused path was taken")

    monkeypatch.setattr(block._FusedBlock, "apply", refuse)
    inputs = make_inputs(1, 5, d_model=24, d_inner=48)
    expected = results_and_gradients(by_definition, inputs, None, torch.float64)
    assert_close(results_and_gradients(fused, inputs, None, torch.float64), expected, 1e-9)
    assert not supports(768, 1536, 16, 48, torch.float32, "cuda")
    assert not supports(16, 32, 8, 1, torch.bfloat16, "cuda")


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("in_proj", (32, 16)),
        ("x_proj", (16, 32)),
        ("D", (31,)),
        ("out_proj", (32, 16)),
        ("norm_weight", (1,)),
    ],
)
def test_a_weight_of_the_wrong_shape_is_named(name, shape):
    tokens, h0, weights = make_inputs(1, 3)
    weights[name] = torch.zeros(shape, dtype=torch.float64)
    with pytest.raises(ValueError, match=name):
        mamba_block(tokens, **weights, h0=h0)


def test_arguments_on_two_devices_are_refused_by_name():
    tokens, h0, weights = make_inputs(1, 3)
    with pytest.raises(ValueError, match="h0 is on meta, tokens are on cpu"):
        mamba_block(tokens, **weights, h0=h0.to("meta"))


def test_a_mask_that_is_not_boolean_is_refused():
    tokens, h0, weights = make_inputs(1, 3)
    with pytest.raises(ValueError, match="bool"):
        mamba_block(tokens, **weights, h0=h0, mask=torch.ones(3))
