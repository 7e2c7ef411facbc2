"""On a real device RMSNorm under autocast is the one of float64, rounded once, and repeats its bits."""

import pytest
import torch
from torch.nn import functional as F

from lgbench.ops.rms_norm import rms_norm

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)

EPS = 1e-5


def run(shape, **options):
    torch.manual_seed(shape[-1])
    x = torch.randn(shape, device="cuda", requires_grad=True)
    weight = torch.randn(shape[-1], device="cuda", requires_grad=True)
    dy = torch.randn(shape, device="cuda").bfloat16()
    with torch.autocast("cuda", dtype=torch.bfloat16):
        y = rms_norm(x, weight, EPS, **options)
    return x, weight, dy, [y, *torch.autograd.grad(y, (x, weight), dy.to(y.dtype))]


@pytest.mark.parametrize("for_product", [False, True], ids=["as-it-is", "for-a-product"])
@pytest.mark.parametrize(
    "shape",
    [(1, 1, 16), (2, 333, 256), (3, 1000, 768), (7, 5120), (64, 1025, 16)],
    ids=lambda shape: f"{shape}",
)
def test_values_and_gradients_agree_with_float64_under_autocast(shape, for_product):
    x, weight, dy, got = run(shape, for_product=for_product)
    wide = [t.detach().double().requires_grad_() for t in (x, weight)]
    z = F.rms_norm(wide[0], shape[-1:], wide[1], EPS)
    wanted = [z, *torch.autograd.grad(z, wide, dy.double())]
    dtype, most = (torch.bfloat16, 5e-3) if for_product else (torch.float32, 2e-6)
    assert [t.dtype for t in got] == [dtype, torch.float32, torch.float32]
    for name, a, b, limit in zip(("y", "dx", "dweight"), got, wanted, (most, 2e-6, 2e-6), strict=True):
        assert (a.double() - b).norm() <= limit * b.norm(), name


def test_the_same_input_gives_the_same_bits():
    first, second = run((8, 2048, 256))[3], run((8, 2048, 256))[3]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_part_of_the_rows_is_normalised_without_autocast():
    x, weight = torch.randn(2, 9, 16, device="cuda"), torch.randn(16, device="cuda")
    found, wanted = rms_norm(x[:, 4:], weight, EPS), F.rms_norm(x[:, 4:], (16,), weight, EPS)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)
