"""The narrow RMSNorm is that of `torch.nn`; its kernels run in Triton's interpreter, in their own process."""

import os

import pytest
import torch
from torch.nn import functional as F

from lgbench.ops.rms_norm import rms_norm

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
interpreted = pytest.mark.skipif(not INTERPRETED, reason="runs in the process that the first test starts")
EPS = 1e-3


@pytest.mark.skipif(INTERPRETED, reason="this is that process")
def test_all_claims_of_this_file_hold_in_the_interpreter(interpret):
    result = interpret(__file__)
    assert result.returncode == 0, result.stdout + result.stderr


def test_outside_of_cuda_it_is_the_one_of_torch():
    x, weight = torch.randn(2, 5, 6), torch.randn(6)
    assert torch.equal(rms_norm(x, weight, EPS), F.rms_norm(x, (6,), weight, EPS))


@interpreted
@pytest.mark.parametrize(
    ("dtype", "limit"), [(torch.float32, 1e-6), (torch.bfloat16, 2**-7)], ids=["fp32", "to-bf16"]
)
@pytest.mark.parametrize(
    "shape", [(2, 5, 6), (1, 1, 3), (3, 700, 8), (4, 100)], ids=["small", "one", "many-rows", "wide"]
)
def test_values_and_gradients_agree_with_float64(shape, dtype, limit, monkeypatch):
    """The interpreter cuts bfloat16 off where a device rounds: a whole unit in the last place, 2^-7."""
    from lgbench.ops import rms_norm_triton

    monkeypatch.setattr(rms_norm_triton, "PROGRAMS", 2)
    monkeypatch.setattr(rms_norm_triton, "TILE", 256)
    rng = torch.Generator().manual_seed(len(shape))
    x, weight = torch.randn(shape, generator=rng), torch.randn(shape[-1], generator=rng)
    dy = torch.randn(shape, generator=rng).to(dtype)
    leaves = [x.requires_grad_(), weight.requires_grad_()]
    y = rms_norm_triton.RmsNorm.apply(*leaves, EPS, dtype)
    got = [y, *torch.autograd.grad(y, leaves, dy)]
    wide = [leaf.detach().double().requires_grad_() for leaf in leaves]
    z = F.rms_norm(wide[0], shape[-1:], wide[1], EPS)
    wanted = [z, *torch.autograd.grad(z, wide, dy.double())]
    assert y.dtype == dtype and [t.dtype for t in got[1:]] == [torch.float32] * 2
    for name, a, b, most in zip(("y", "dx", "dweight"), got, wanted, (limit, 1e-6, 1e-6), strict=True):
        assert (a.double() - b).norm() <= most * b.norm(), name
