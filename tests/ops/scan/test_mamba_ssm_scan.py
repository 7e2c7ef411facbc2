"""What we add around mamba-ssm's kernel, with the definition from a zero state in the kernel's place.

The stand-in keeps the kernel's contract: its layout, one type for all inputs, float32 parameters, and a last
state without gradient. `lgbench doctor` compares the kernel itself with the reference, where there is a GPU.
"""

import sys
import types

import pytest
import torch

from lgbench.ops.scan import mamba_ssm_scan as scan_mamba_ssm
from lgbench.ops.scan import reference as scan_reference

NAMES = ("x", "delta", "A", "B", "C", "D", "z", "h0", "delta_bias")


def kernel(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False):
    """The contract of `selective_scan_fn` at mamba-ssm 2.2.4, with real A and one group."""
    batch, channels, length = u.shape
    for name, value in {"delta": delta, "B": B, "C": C, "z": u if z is None else z}.items():
        assert value.dtype == u.dtype, name
    assert A.dtype == torch.float32 and A.shape[0] == channels
    assert B.shape == C.shape == (batch, A.shape[1], length)
    for value in (D, delta_bias):
        assert value is None or (value.dtype == torch.float32 and value.shape == (channels,))
    assert return_last_state
    u, delta, B, C, z = (None if v is None else v.transpose(1, 2) for v in (u, delta, B, C, z))
    y, state = scan_reference.scan(u, delta, A, B, C, D, z, None, None, delta_bias, delta_softplus)
    return y.transpose(1, 2), state.detach()


@pytest.fixture(autouse=True)
def installed(monkeypatch):
    """A mamba_ssm whose kernel is the stand-in, and chunks short enough that there are several."""
    module = types.SimpleNamespace(selective_scan_fn=kernel)
    monkeypatch.setitem(sys.modules, "mamba_ssm.ops.selective_scan_interface", module)
    monkeypatch.setattr(scan_mamba_ssm, "CHUNK_ELEMENTS", 500)


def arguments(absent=(), dtype=torch.float32, batch=2, length=67, channels=5, d_state=3):
    rng = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=rng)

    values = {
        "x": draw(batch, length, channels).to(dtype),
        "delta": (draw(batch, length, channels) - 2).to(dtype),
        "A": -4 * torch.rand(channels, d_state, generator=rng) - 0.01,
        "B": draw(batch, length, d_state).to(dtype),
        "C": draw(batch, length, d_state).to(dtype),
        "D": draw(channels),
        "z": draw(batch, length, channels).to(dtype),
        "h0": draw(batch, channels, d_state),
        "delta_bias": draw(channels),
    }
    return {name: value for name, value in values.items() if name not in absent}


def results(scan, values, mask, softplus, dtype=None):
    """y, the last state and the gradients of a random functional of both."""
    leaves = {k: v.detach().to(dtype or v.dtype).requires_grad_() for k, v in values.items()}
    y, state = scan(**{name: leaves.get(name) for name in NAMES}, mask=mask, softplus=softplus)
    rng = torch.Generator().manual_seed(1)
    weights = [torch.randn(v.shape, generator=rng).to(values["x"].dtype).to(v.dtype) for v in (y, state)]
    gradients = torch.autograd.grad((y, state), list(leaves.values()), weights)
    return {"y": y, "state": state} | {f"d{k}": v for k, v in zip(leaves, gradients, strict=True)}


def errors(values, mask=None, softplus=True):
    got = results(scan_mamba_ssm.scan, values, mask, softplus)
    wanted = results(scan_reference.scan, values, mask, softplus, torch.float64)
    return {k: ((got[k].double() - v).norm() / v.norm()).item() for k, v in wanted.items()}


MASK = torch.rand(2, 67, generator=torch.Generator().manual_seed(2)) < 0.7
CASES = {
    "plain": (("D", "z", "h0", "delta_bias"), None, False),
    "in-the-kernel": (("h0",), None, True),
    "h0": (("D", "z", "delta_bias"), None, True),
    "h0-gate": (("D",), None, True),
    "mask": (("h0",), MASK, True),
    "shared-mask": (("h0", "D"), MASK[0], True),
    "everything": ((), MASK, True),
    "everything-without-softplus": ((), MASK, False),
}


@pytest.mark.parametrize(("absent", "mask", "softplus"), CASES.values(), ids=CASES)
def test_values_and_all_gradients_equal_the_definition(absent, mask, softplus):
    values = arguments(absent)
    if not softplus:
        values["delta"] = values["delta"].exp()
        values["delta_bias"] = values.get("delta_bias", torch.zeros(5)).abs()
    found = errors(values, mask, softplus)
    assert max(found.values()) < 2e-6, found


@pytest.mark.parametrize(("absent", "mask", "softplus"), CASES.values(), ids=CASES)
def test_bfloat16_loses_no_more_than_the_rounding_of_its_outputs(absent, mask, softplus):
    values = arguments(absent, torch.bfloat16)
    if not softplus:
        values["delta"], values["delta_bias"] = values["delta"].exp(), torch.ones(5)
    found = errors(values, mask, softplus)
    assert max(found.values()) < 2**-7, found
    assert found["state"] < 2e-6, "the state and Δ are never rounded to bfloat16"


def test_the_last_state_has_a_gradient_although_the_kernel_gives_none():
    leaves = {k: v.requires_grad_() for k, v in arguments(("h0", "z", "D")).items()}
    _, state = scan_mamba_ssm.scan(**leaves, softplus=True)
    gradients = torch.autograd.grad(state.sum(), [leaves[k] for k in ("x", "delta", "A", "B", "delta_bias")])
    assert all(g.abs().sum() > 0 for g in gradients)


def test_a_last_state_that_nobody_differentiates_costs_no_backward(monkeypatch):
    leaves = {k: v.requires_grad_() for k, v in arguments(("h0",)).items()}
    y, _ = scan_mamba_ssm.scan(**leaves, softplus=True)
    monkeypatch.setattr(scan_mamba_ssm, "_in_chunks", None)
    y.sum().backward()
    assert leaves["x"].grad.abs().sum() > 0


def test_the_state_decays_exactly_over_long_sequences():
    """Cumulated Δ reaches 2,000 here: its rounding must not reach what the last tokens contribute."""
    values = arguments(("z", "D", "delta_bias"), length=4000, batch=1)
    values["delta"] = torch.full_like(values["delta"], 0.5)
    found = errors(values, softplus=False)
    assert max(found.values()) < 2e-6, found


def test_a_fully_masked_sequence_keeps_the_state_bit_for_bit():
    values = arguments()
    _, state = scan_mamba_ssm.scan(**values, mask=torch.zeros(67, dtype=torch.bool), softplus=True)
    assert torch.equal(state, values["h0"])


@pytest.mark.parametrize(("batch", "length"), [(0, 4), (2, 0)])
def test_empty_inputs_never_reach_the_kernel(monkeypatch, batch, length):
    monkeypatch.setattr(sys.modules["mamba_ssm.ops.selective_scan_interface"], "selective_scan_fn", None)
    values = arguments(batch=batch, length=length)
    y, state = scan_mamba_ssm.scan(**values, softplus=True)
    assert y.shape == (batch, length, 5)
    assert torch.equal(state, values["h0"])


@pytest.mark.parametrize(
    ("batch", "length", "channels", "d_state"),
    [(1, 2**26, 32, 2), (64, 2**20, 32, 2), (1, 2**27, 1, 16), (4096, 1, 1024, 256)],
    ids=["length", "batch", "d_state", "kept-states"],
)
def test_sizes_beyond_32_bit_offsets_are_refused(batch, length, channels, d_state):
    x = torch.zeros(1).expand(batch, length, channels)
    B = torch.zeros(1).expand(batch, length, d_state)
    with pytest.raises(ValueError, match=r"32-bit offsets.*split the batch or the length"):
        scan_mamba_ssm.scan(x, x, -torch.ones(channels, d_state), B, B)


def test_a_state_wider_than_the_kernel_takes_is_refused():
    with pytest.raises(ValueError, match="d_state up to 256, got 257"):
        scan_mamba_ssm.scan(**arguments(d_state=257))
