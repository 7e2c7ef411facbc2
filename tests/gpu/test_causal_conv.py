"""The causal convolution on a real device: values, gradients, large offsets, and the same bits every time."""

import pytest
import torch
from torch.nn import functional as F

from lgbench.ops.causal_conv import causal_conv

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)

LIMITS = {torch.float32: 2e-6, torch.bfloat16: 5e-3, torch.float16: 6e-4}
IDS = ["fp32", "bf16", "fp16"]


def arguments(batch, length, channels, taps, dtype):
    """x is the first half of a projection's output."""
    torch.manual_seed(length)
    like = dict(device="cuda", dtype=dtype)
    return (
        torch.randn(batch, length, 2 * channels, **like),
        torch.randn(channels, taps, device="cuda"),
        torch.randn(channels, device="cuda"),
        torch.randn(batch, taps - 1, channels, **like),
    )


def definition(x, weight, bias, before):
    """`conv1d` of all inputs."""
    return F.silu(F.conv1d(torch.cat([before, x], dim=1).mT, weight[:, None], bias, groups=len(weight))).mT


def run(function, values, dy):
    leaves = [value.detach().requires_grad_() for value in values]
    y = function(leaves[0].chunk(2, dim=-1)[0], *leaves[1:])
    return [y, *torch.autograd.grad(y, leaves, dy.to(y.dtype))]


@pytest.mark.parametrize("dtype", LIMITS, ids=IDS)
@pytest.mark.parametrize(
    ("batch", "length", "channels", "taps"),
    [(1, 1, 32, 4), (2, 63, 33, 4), (3, 1537, 512, 4), (2, 500, 1536, 2), (1, 131072, 64, 3)],
    ids=lambda n: str(n),
)
def test_values_and_gradients_agree_with_float64(batch, length, channels, taps, dtype):
    values = arguments(batch, length, channels, taps, dtype)
    dy = torch.randn(batch, length, channels, device="cuda").to(dtype)
    got = run(lambda *v: causal_conv(*v)[0], values, dy)
    wanted = run(definition, [value.double() for value in values], dy.double())
    for name, a, b in zip(("y", "dx", "dweight", "dbias", "dbefore"), got, wanted, strict=True):
        assert (a.double() - b).norm() / b.norm() < LIMITS[dtype], name


@pytest.mark.parametrize("dtype", LIMITS, ids=IDS)
@pytest.mark.parametrize("kind", ["left-padding", "holes"])
def test_masked_tokens_might_as_well_not_be_there(kind, dtype):
    both, weight, bias, before = arguments(4, 1537, 96, 4, dtype)
    x, dy = both[..., :96], torch.randn(4, 1537, 96, device="cuda").to(dtype)
    if kind == "holes":
        mask = torch.rand(4, 1537, device="cuda") > 0.3
    else:
        mask = torch.arange(1537, device="cuda") >= torch.tensor([[0], [3], [64], [1536]], device="cuda")
    found = {}
    for width in (dtype, torch.float64):
        wide = torch.promote_types(width, torch.float32)
        leaves = [x.detach().to(width), weight.to(wide).clone(), bias.to(wide).clone()]
        leaves = [leaf.requires_grad_() for leaf in leaves]
        y, carried = causal_conv(*leaves, before.to(width), mask)
        gradients = torch.autograd.grad(y, leaves, dy.to(width) * mask.unsqueeze(-1))
        found[width] = [y * mask.unsqueeze(-1), carried, *gradients]
    for name, a, b in zip(
        ("y", "carried", "dx", "dweight", "dbias"), found[dtype], found[torch.float64], strict=True
    ):
        assert (a.double() - b).norm() / b.norm() < LIMITS[dtype], name


def test_the_same_input_gives_the_same_bits():
    values = arguments(8, 4096, 512, 4, torch.bfloat16)
    dy = torch.randn(8, 4096, 512, device="cuda").bfloat16()
    first, second = (run(lambda *v: causal_conv(*v)[0], values, dy) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_more_than_2_to_the_31_elements_agree_at_their_end():
    length, channels = 2_200_000, 1024
    if torch.cuda.mem_get_info()[0] < 20e9:
        pytest.skip("needs 20 GB of device memory")
    x = torch.randn(1, length, channels, device="cuda", dtype=torch.bfloat16)
    weight, bias = torch.randn(channels, 4, device="cuda"), torch.randn(channels, device="cuda")
    y, carried = causal_conv(x, weight, bias)
    end = x[:, -203:].double()
    wanted = definition(end[:, 3:], weight.double(), bias.double(), end[:, :3])
    assert (y[:, -200:].double() - wanted).norm() / wanted.norm() < LIMITS[torch.bfloat16]
    assert torch.equal(carried, x[:, -3:])


def test_a_captured_graph_replays_with_new_inputs():
    x, weight, bias, before = arguments(2, 300, 64, 4, torch.bfloat16)
    x = x[..., :64].contiguous()
    causal_conv(x, weight, bias, before)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y, _ = causal_conv(x, weight, bias, before)
    x.copy_(torch.randn_like(x))
    graph.replay()
    assert torch.equal(y, causal_conv(x, weight, bias, before)[0])
