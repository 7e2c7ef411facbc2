"""On a real device RMSNorm under autocast is the one of float64, rounded once, and repeats its bits."""

import pytest
import torch
from torch.nn import functional as F

from lgbench.ops.rms_norm import rms_norm

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)

EPS = 1e-5


def run(shape):
    torch.manual_seed(shape[-1])
    x = torch.randn(shape, device="cuda", requires_grad=True)
    weight = torch.randn(shape[-1], device="cuda", requires_grad=True)
    dy = torch.randn(shape, device="cuda").bfloat16()
    with torch.autocast("cuda", dtype=torch.bfloat16):
        y = rms_norm(x, weight, EPS)
    return x, weight, dy, [y, *torch.autograd.grad(y, (x, weight), dy)]


@pytest.mark.parametrize(
    "shape", [(1, 1, 16), (2, 333, 256), (3, 1000, 768), (7, 5120)], ids=lambda shape: f"{shape}"
)
def test_values_and_gradients_agree_with_float64_under_autocast(shape):
    x, weight, dy, got = run(shape)
    wide = [t.detach().double().requires_grad_() for t in (x, weight)]
    z = F.rms_norm(wide[0], shape[-1:], wide[1], EPS)
    wanted = [z, *torch.autograd.grad(z, wide, dy.double())]
    assert [t.dtype for t in got] == [torch.bfloat16, torch.float32, torch.float32]
    for name, a, b, limit in zip(("y", "dx", "dweight"), got, wanted, (5e-3, 2e-6, 2e-6), strict=True):
        assert (a.double() - b).norm() <= limit * b.norm(), name


def test_the_same_input_gives_the_same_bits():
    first, second = run((8, 2048, 256))[3], run((8, 2048, 256))[3]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_without_autocast_it_is_the_one_of_torch():
    x, weight = torch.randn(2, 9, 16, device="cuda"), torch.randn(16, device="cuda")
    assert torch.equal(rms_norm(x, weight, EPS), F.rms_norm(x, (16,), weight, EPS))
