"""The Triton scan on a real device, in values and gradients, against the torch back end in float64."""

import pytest
import torch

from lgbench.ops.scan import chunked as scan_torch
from lgbench.ops.scan.selective_scan import check_backend, resolve_backend, selective_scan

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)

NAMES = ("x", "delta", "A", "B", "C", "D", "z", "h0", "delta_bias")
LIMITS = {torch.float32: 2e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}


def arguments(batch, length, channels, states, dtype=torch.float32):
    """Random arguments as at Mamba's initialisation: softplus(Δ) is log-uniform in [0.001, 0.1]."""
    torch.manual_seed(length)
    like = dict(device="cuda", dtype=dtype)
    return dict(
        x=torch.randn(batch, length, channels, **like),
        delta=0.5 * torch.randn(batch, length, channels, **like),
        A=-torch.arange(1.0, states + 1, device="cuda").repeat(channels, 1),
        B=torch.randn(batch, length, states, **like),
        C=torch.randn(batch, length, states, **like),
        D=torch.randn(channels, device="cuda"),
        z=torch.randn(batch, length, channels, **like),
        h0=torch.randn(batch, channels, states, device="cuda"),
        delta_bias=torch.expm1(0.001 * 100 ** torch.rand(channels, device="cuda")).log(),
    )


def triton_scan(*, x, delta, A, B, C, D, mask=None, **rest):
    return selective_scan(x, delta, A, B, C, D, mask=mask, softplus=True, backend="triton", **rest)


def float64_scan(*, mask=None, **values):
    return scan_torch.scan(**{name: values[name].double() for name in NAMES}, mask=mask, softplus=True)


def errors(values, mask=None):
    """‖got − wanted‖ / ‖wanted‖ of y, state and every gradient."""
    results = []
    for function in (triton_scan, float64_scan):
        leaves = {name: value.detach().requires_grad_() for name, value in values.items()}
        y, state = function(**leaves, mask=mask)
        torch.manual_seed(1)
        weights = torch.randn(y.shape, device="cuda"), torch.randn(state.shape, device="cuda")
        weights = weights[0].to(values["x"].dtype), weights[1]
        loss = (y.double() * weights[0]).sum() + (state.double() * weights[1]).sum()
        results.append([y, state, *torch.autograd.grad(loss, list(leaves.values()))])
    names = ["y", "state", *("d" + name for name in values)]
    return {
        name: ((got.double() - wanted.double()).norm() / wanted.double().norm()).item()
        for name, got, wanted in zip(names, *results, strict=True)
    }


@pytest.mark.parametrize("length", [1, 2, 63, 1537, 16384, 131072], ids=lambda n: f"L{n}")
@pytest.mark.parametrize("dtype", LIMITS, ids=["fp32", "bf16", "fp16"])
def test_values_and_gradients_agree_with_float64(length, dtype):
    found = errors(arguments(1 if length > 20000 else 2, length, 32, 8, dtype))
    assert all(error < LIMITS[dtype] for error in found.values()), found


@pytest.mark.parametrize("dtype", LIMITS, ids=["fp32", "bf16", "fp16"])
def test_masked_steps_and_channels_that_do_not_fill_a_block_agree(dtype):
    mask = torch.rand(3, 777, device="cuda") > 0.3
    found = errors(arguments(3, 777, 72, 16, dtype), mask)
    assert all(error < LIMITS[dtype] for error in found.values()), found


@pytest.mark.parametrize("dtype", LIMITS, ids=["fp32", "bf16", "fp16"])
def test_many_channels_of_16_states_agree(dtype):
    mask = torch.rand(8, 333, device="cuda") > 0.3
    found = errors(arguments(8, 333, 1032, 16, dtype), mask)
    assert all(error < LIMITS[dtype] for error in found.values()), found


@pytest.mark.parametrize("states", [1, 3, 5, 32], ids=lambda n: f"N{n}")
def test_any_number_of_states_agrees(states):
    found = errors(arguments(2, 300, 40, states))
    assert all(error < LIMITS[torch.float32] for error in found.values()), found


def test_a_million_steps_agree_with_float64():
    values = arguments(1, 1_048_576, 16, 8)
    with torch.no_grad():
        got, wanted = triton_scan(**values), float64_scan(**values)
    for a, b in zip(got, wanted, strict=True):
        assert (a.double() - b).norm() / b.norm() < LIMITS[torch.float32]


@pytest.mark.parametrize("length", [16384, 131072], ids=lambda n: f"L{n}")
def test_16_states_in_bfloat16_agree_at_long_lengths(length):
    found = errors(arguments(1, length, 32, 16, torch.bfloat16))
    assert all(error < LIMITS[torch.bfloat16] for error in found.values()), found


@pytest.mark.parametrize(
    ("length", "channels", "states"), [(2_200_000, 1024, 4), (262_144, 8448, 16)], ids=["N4", "N16"]
)
def test_more_than_2_to_the_31_elements_agree_with_float64(length, channels, states):
    chosen = [0, 500, channels - 1]
    if torch.cuda.mem_get_info()[0] < 40e9:
        pytest.skip("needs 40 GB of device memory")
    like = dict(device="cuda", dtype=torch.bfloat16)
    values = dict(
        x=torch.randn(1, length, channels, **like),
        delta=torch.randn(1, length, channels, **like),
        A=-torch.rand(channels, states, device="cuda") - 0.1,
        B=torch.randn(1, length, states, **like),
        C=torch.randn(1, length, states, **like),
        D=torch.ones(channels, device="cuda"),
        z=None,
        h0=None,
        delta_bias=torch.full((channels,), -4.0, device="cuda"),
    )
    with torch.no_grad():
        y, state = triton_scan(**values)
        part = {k: v if v is None or k in "ABC" else v[..., chosen] for k, v in values.items()}
        part["A"] = values["A"][chosen]
        part = {k: None if v is None else v.double() for k, v in part.items()}
        wanted, last = scan_torch.scan(**part, softplus=True)
    assert (y[..., chosen].double() - wanted).norm() / wanted.norm() < LIMITS[torch.bfloat16]
    assert (y[:, -100:, chosen].double() - wanted[:, -100:]).norm() / wanted[:, -100:].norm() < LIMITS[
        torch.bfloat16
    ]
    assert (state[:, chosen].double() - last).norm() / last.norm() < LIMITS[torch.bfloat16]


@pytest.mark.parametrize(
    ("batch", "channels", "dtype"), [(2, 96, torch.float32), (8, 1056, torch.bfloat16)], ids=["few", "many"]
)
def test_the_same_input_gives_the_same_bits(batch, channels, dtype):
    runs = []
    for _ in range(2):
        values = arguments(batch, 3000, channels, 16, dtype)
        leaves = {name: value.requires_grad_() for name, value in values.items()}
        y, state = triton_scan(**leaves)
        runs.append([y, state, *torch.autograd.grad(y.sum() + state.sum(), list(leaves.values()))])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_the_scan_is_what_auto_picks_and_passes_the_doctor():
    assert resolve_backend("auto", "cuda") == "triton"
    assert check_backend("triton", "cuda", 4096) < LIMITS[torch.float32]
