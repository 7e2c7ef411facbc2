"""The speed of the PyTorch scan on this machine, forward and backward, as ratios taken within one run.

All contenders take turns, so that a busy machine slows them alike, and medians are compared. Shapes and bars
are the project's goals for a CPU. The ratios are printed: run this file with `-m benchmark -s`.
"""

import time
import warnings
from statistics import median

import pytest
import torch

from lgbench.ops.scan import chunked as scan_torch
from lgbench.ops.scan import reference as scan_reference

pytestmark = pytest.mark.benchmark

OMNIGLOT = (8, 2048, 32, 8)
WIDE = (4, 4096, 128, 16)
NAMES = {"B8-L2048-E32-N8": OMNIGLOT, "B4-L4096-E128-N16": WIDE}
ROUNDS = 7


def leaves_of(batch, length, channels, d_state):
    """x, Δ, A, B, C, D in float32 at the scales of Mamba's initialisation, and a gradient for y."""
    rng = torch.Generator().manual_seed(0)
    x, dy = (torch.randn(batch, length, channels, generator=rng) for _ in range(2))
    delta = 0.001 * 100 ** torch.rand(batch, length, channels, generator=rng)
    A = -torch.arange(1.0, d_state + 1).repeat(channels, 1)
    B, C = (torch.randn(batch, length, d_state, generator=rng) for _ in range(2))
    return [v.requires_grad_() for v in (x, delta, A, B, C, torch.ones(channels))], dy


def chunked(*leaves):
    return scan_torch.scan(*leaves)[0]


def sequential(*leaves):
    return scan_reference.scan(*leaves, dtype=torch.float32)[0]


def mambapy(x, delta, A, B, C, D):
    """The scan of mambapy's MambaBlock: `PScan` between the same discretisation and read-out."""
    from mambapy.pscan import pscan

    states = pscan(torch.exp(delta[..., None] * A), (delta * x)[..., None] * B[:, :, None])
    return (states @ C[..., None]).squeeze(3) + D * x


def transformers_loop(x, delta, A, B, C, D):
    """The loop over time that transformers runs where it has no kernel; channels first, as it wants them."""
    from transformers.models.mamba import modeling_mamba

    x, delta, B, C = (v.transpose(1, 2) for v in (x, delta, B, C))
    with warnings.catch_warnings(action="ignore"):
        return modeling_mamba.mamba_selective_scan(x, delta, A, B, C, D).transpose(1, 2)


def seconds(function, leaves, dy):
    """The time of one forward, and of one backward if `dy` is given."""
    start = time.perf_counter()
    if dy is None:
        with torch.no_grad():
            function(*leaves)
    else:
        torch.autograd.grad(function(*leaves), leaves, dy)
    return time.perf_counter() - start


def times_faster(rival, shape, backward=True):
    """How many times `chunked`, forward and backward, is faster than a rival; agreement is checked first."""
    leaves, dy = leaves_of(*shape)
    with torch.no_grad():
        torch.testing.assert_close(rival(*leaves), chunked(*leaves), rtol=1e-3, atol=1e-3)
    times = {"ours": [], "theirs": []}
    for _ in range(ROUNDS + 1):
        times["ours"].append(seconds(chunked, leaves, dy))
        times["theirs"].append(seconds(rival, leaves, dy if backward else None))
    ours, theirs = (median(times[k][1:]) for k in times)
    ratio = theirs / ours
    print(f"\n{rival.__name__}: {theirs * 1e3:.1f} ms, ours {ours * 1e3:.1f} ms, ratio {ratio:.1f}")
    return ratio


@pytest.mark.parametrize("shape", NAMES.values(), ids=NAMES)
def test_forward_and_backward(benchmark, shape):
    leaves, dy = leaves_of(*shape)
    gradients = benchmark(lambda: torch.autograd.grad(chunked(*leaves), leaves, dy))
    assert all(torch.isfinite(g).all() for g in gradients)


def test_ten_times_faster_than_the_sequential_loop_in_float32():
    assert times_faster(sequential, OMNIGLOT) >= 10


def test_three_times_faster_than_mambapy():
    pytest.importorskip("mambapy")
    assert times_faster(mambapy, WIDE) >= 3


def test_three_times_faster_with_backward_than_the_loop_of_transformers_without():
    """Its backward fills a `(B, E, L, N)` per step, minutes at this length, so only its forward is timed."""
    modeling = pytest.importorskip("transformers.models.mamba.modeling_mamba")
    if not hasattr(modeling, "mamba_selective_scan"):
        pytest.skip("this version of transformers has its loop inside a module")
    assert times_faster(transformers_loop, WIDE, backward=False) >= 3
