"""The fused Mamba block on a real GPU, against the plain path in float64."""

import pytest
import torch
from torch import Tensor

from lgbench.ops.block.mamba_block import mamba_block, plain_block, supports

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")

WEIGHTS = ("norm_weight", "in_proj", "x_proj", "dt_weight", "dt_bias", "A_log", "D", "out_proj")


def make_inputs(
    batch: int, length: int, d_model: int = 16, d_inner: int = 32, d_state: int = 8, dt_rank: int = 1
):
    """Float64 tokens, first state and weights on the GPU."""
    generator = torch.Generator().manual_seed(1000 * length + d_state)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    decays = torch.log(1 + torch.arange(d_state)).double() + 0.1 * normal(d_inner, d_state)
    values = (
        1 + 0.2 * normal(d_model),
        0.3 * normal(2 * d_inner, d_model),
        0.3 * normal(dt_rank + 2 * d_state, d_inner),
        normal(d_inner, dt_rank),
        normal(d_inner) - 3,
        decays,
        1 + 0.1 * normal(d_inner),
        0.1 * normal(d_model, d_inner),
    )
    tokens, h0 = normal(batch, length, d_model).cuda(), normal(batch, d_inner, d_state).cuda()
    return tokens, h0, [value.cuda() for value in values]


def results_and_gradients(inputs, mask: Tensor | None, dtype: torch.dtype, fused: bool) -> list[Tensor]:
    """Both results, then the gradients of tokens, first state and weights, for a fixed random pull."""
    tokens, h0, values = inputs
    leaves = [leaf.to(dtype).requires_grad_() for leaf in (tokens, h0, *values)]
    if fused:
        results = mamba_block(
            leaves[0], **dict(zip(WEIGHTS, leaves[2:], strict=True)), h0=leaves[1], mask=mask
        )
    else:
        results = plain_block(leaves[0], tuple(leaves[2:]), 1e-5, leaves[1], mask)
    generator = torch.Generator("cuda").manual_seed(7)
    pulls = [
        torch.randn(r.shape, generator=generator, device="cuda", dtype=torch.float64).to(dtype)
        for r in results
    ]
    return [r.detach() for r in results] + list(torch.autograd.grad(results, leaves, pulls))


def assert_close(got: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    for place, (a, b) in enumerate(zip(got, expected, strict=True)):
        assert (a.double() - b).norm() <= tolerance * b.norm() + 1e-12, f"tensor {place} differs"


@pytest.mark.parametrize("masked", [False, True], ids=["all-real", "masked"])
@pytest.mark.parametrize(
    ("batch", "length", "sizes"),
    [
        pytest.param(2, 1, {}, id="B2-L1"),
        pytest.param(2, 2, {}, id="B2-L2"),
        pytest.param(3, 63, {}, id="B3-L63"),
        pytest.param(1, 257, {"d_state": 2}, id="B1-L257-N2"),
        pytest.param(1, 257, {"d_state": 4}, id="B1-L257-N4"),
        pytest.param(1, 130, {"d_state": 16}, id="B1-L130-N16"),
        pytest.param(1, 130, {"d_model": 32, "d_inner": 64, "dt_rank": 2}, id="B1-L130-d32-E64-R2"),
        pytest.param(64, 1537, {}, id="B64-L1537"),
        pytest.param(1, 40_000, {}, id="B1-L40000"),
    ],
)
def test_kernels_are_the_definition(batch, length, sizes, masked):
    inputs = make_inputs(batch, length, **sizes)
    assert supports(*inputs[0].shape[-1:], *inputs[1].shape[1:], inputs[2][3].shape[1], torch.float32, "cuda")
    mask = None
    if masked:
        mask = torch.rand(batch, length, generator=torch.Generator().manual_seed(3)).cuda() > 0.3
        mask[0, : length // 2] = False
    expected = results_and_gradients(inputs, mask, torch.float64, fused=False)
    assert_close(results_and_gradients(inputs, mask, torch.float32, fused=True), expected, 1e-5)


def test_factors_of_very_different_size_keep_the_accuracy_of_float32():
    tokens, h0, values = make_inputs(8, 257)
    scale = 10.0 ** torch.linspace(-6, 6, 16, dtype=torch.float64, device="cuda")
    values[0], values[1] = values[0] * scale, values[1] / scale
    values[7] = values[7] * scale.sqrt()[:, None] * 1000
    inputs = tokens, h0, values
    expected = results_and_gradients(inputs, None, torch.float64, fused=False)
    got = results_and_gradients(inputs, None, torch.float32, fused=True)
    for place, across in ((0, (0, 1)), (5, (0,)), (11, (1,))):  # tokens, in_proj, out_proj: each d by itself
        error = (got[place].double() - expected[place]).square().sum(across)
        assert (error <= 1e-10 * expected[place].square().sum(across)).all(), f"tensor {place} differs"


def test_a_second_run_is_equal_bit_for_bit():
    inputs = make_inputs(16, 777)
    first = results_and_gradients(inputs, None, torch.float32, fused=True)
    second = results_and_gradients(inputs, None, torch.float32, fused=True)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_million_tokens_in_one_call_are_the_same_tokens_in_pieces():
    tokens, h0, values = make_inputs(1, 1_048_577)
    tokens, state = tokens.float(), h0.float()
    weights = {name: value.float() for name, value in zip(WEIGHTS, values, strict=True)}
    with torch.no_grad():
        whole, last = mamba_block(tokens, **weights, h0=state)
        pieces = []
        for piece in tokens.split(300_000, dim=1):
            out, state = mamba_block(piece, **weights, h0=state)
            pieces.append(out)
    assert_close([torch.cat(pieces, 1), state], [whole.double(), last.double()], 1e-5)


def test_a_captured_graph_replays_the_block_on_new_inputs():
    tokens, h0, values = make_inputs(4, 100)
    weights = {name: value.float().requires_grad_() for name, value in zip(WEIGHTS, values, strict=True)}
    static = tokens.float().requires_grad_()

    def step():
        out, last = mamba_block(static, **weights, h0=h0.float())
        return out, *torch.autograd.grad(out.sum() + last.sum(), [static, *weights.values()])

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        static.copy_(torch.randn_like(static))
    graph.replay()
    expected = step()
    assert all(torch.equal(a, b) for a, b in zip(captured, expected, strict=True))


def test_calls_on_several_streams_do_not_disturb_each_other():
    inputs = [make_inputs(8, 300 + k) for k in range(4)]
    alone = [results_and_gradients(one, None, torch.float32, fused=True) for one in inputs]
    torch.cuda.synchronize()
    together, streams = [], [torch.cuda.Stream() for _ in inputs]
    for one, stream in zip(inputs, streams, strict=True):
        with torch.cuda.stream(stream):
            together.append(results_and_gradients(one, None, torch.float32, fused=True))
    torch.cuda.synchronize()
    for a, b in zip(alone, together, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
