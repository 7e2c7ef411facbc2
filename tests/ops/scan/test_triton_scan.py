"""The Triton scan in Triton's interpreter on the CPU, at small sizes, against the float64 definition.

Triton decides when a kernel is defined whether it is interpreted. So these tests run in a process of their
own, with TRITON_INTERPRET=1; `test_all_claims_of_this_file_hold_in_the_interpreter` starts it. To run them
directly:

    TRITON_INTERPRET=1 python -m pytest tests/ops/scan/test_triton_scan.py
"""

import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lgbench.ops.scan import reference as scan_reference

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
interpreted = pytest.mark.skipif(not INTERPRETED, reason="runs in the process that the first test starts")
NAMES = ("x", "delta", "A", "B", "C", "D", "z", "h0", "delta_bias")
GENERATOR = torch.Generator().manual_seed(0)


@pytest.mark.skipif(INTERPRETED, reason="this is that process")
@pytest.mark.parametrize("which", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_all_claims_of_this_file_hold_in_the_interpreter(interpret, which):
    result = interpret(__file__, "-m", which)
    assert result.returncode == 0, result.stdout + result.stderr


def arguments(batch, length, channels, states, dtype=torch.float32, absent=()):
    """Random arguments of a scan with softplus."""

    def draw(*shape):
        return torch.randn(*shape, generator=GENERATOR)

    rows = (batch, length)
    values = {
        "x": draw(*rows, channels).to(dtype),
        "delta": (draw(*rows, channels) - 1).to(dtype),
        "A": -4 * torch.rand(channels, states, generator=GENERATOR) - 0.01,
        "B": draw(*rows, states).to(dtype),
        "C": draw(*rows, states).to(dtype),
        "D": draw(channels),
        "z": draw(*rows, channels).to(dtype),
        "h0": draw(batch, channels, states),
        "delta_bias": draw(channels),
    }
    return {name: value for name, value in values.items() if name not in absent}


def relative_errors(values, mask=None, softplus=True):
    """‖got − wanted‖ / ‖wanted‖ of y, state and all gradients."""
    from lgbench.ops.scan import triton_scan as scan_triton

    weights = None
    results = []
    for function, dtype in ((scan_triton.scan, None), (scan_reference.scan, torch.float64)):
        leaves = {k: v.detach().to(dtype or v.dtype).requires_grad_() for k, v in values.items()}
        y, state = function(**{n: leaves.get(n) for n in NAMES}, mask=mask, softplus=softplus)
        if weights is None:
            weights = [torch.randn(t.shape, generator=GENERATOR).to(t.dtype) for t in (y, state)]
        loss = (y.double() * weights[0]).sum() + (state.double() * weights[1]).sum()
        results.append([y, state, *torch.autograd.grad(loss, list(leaves.values()))])
    return {
        name: ((got.double() - wanted).norm() / (wanted.norm() + 1e-30)).item()
        for name, got, wanted in zip(["y", "state", *("d" + n for n in values)], *results, strict=True)
    }


def largest_error(values, mask=None, softplus=True):
    """The largest of `relative_errors`, and the name of where it is."""
    errors = relative_errors(values, mask, softplus)
    worst = max(errors, key=errors.get)
    return errors[worst], worst


CASES = {
    "B2-L21-E5-N8": dict(batch=2, length=21, channels=5, states=8),
    "B1-L1-E3-N4": dict(batch=1, length=1, channels=3, states=4),
    "B1-L2-E3-N1": dict(batch=1, length=2, channels=3, states=1),
    "B1-L63-E4-N2-three-chunks": dict(batch=1, length=63, channels=4, states=2),
    "B1-L17-E33-N3-two-blocks": dict(batch=1, length=17, channels=33, states=3),
    "B1-L11-E32-N16": dict(batch=1, length=11, channels=32, states=16),
    "B1-L5-E2-N32": dict(batch=1, length=5, channels=2, states=32),
    "B1-L9-E4-N4-plain": dict(batch=1, length=9, channels=4, states=4, absent=("D", "z", "h0", "delta_bias")),
}


@interpreted
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_values_and_gradients_agree_with_the_definition(case):
    error, where = largest_error(arguments(**case))
    assert error < 2e-6, where


@interpreted
@pytest.mark.parametrize(
    ("dtype", "limit"), [(torch.bfloat16, 1e-2), (torch.float16, 2e-3)], ids=["bf16", "fp16"]
)
def test_half_types_are_summed_in_float32(dtype, limit):
    error, where = largest_error(arguments(1, 40, 4, 4, dtype))
    assert error < limit, where


@interpreted
@pytest.mark.parametrize("per_sequence", [False, True], ids=["one-mask", "mask-per-sequence"])
def test_masked_steps_leave_the_state_alone(per_sequence):
    shape = (2, 15) if per_sequence else (15,)
    mask = torch.rand(shape, generator=GENERATOR) > 0.4
    error, where = largest_error(arguments(2, 15, 4, 4), mask)
    assert error < 2e-6, where


@pytest.fixture
def shared_lanes(monkeypatch):
    """The kernel with several lanes a channel even where there are few channels."""
    from lgbench.ops.scan import triton_scan as scan_triton

    monkeypatch.setattr(scan_triton, "LANES_LEAST", 1)


LANES_CASES = {
    "B2-L17-E34-masked": (dict(batch=2, length=17, channels=34), True),
    "B1-L16-E32": (dict(batch=1, length=16, channels=32), False),
    "B1-L1-E3-masked": (dict(batch=1, length=1, channels=3), True),
    "B1-L10-E4-plain": (dict(batch=1, length=10, channels=4, absent=("D", "z", "h0", "delta_bias")), False),
}


@interpreted
@pytest.mark.parametrize(("case", "masked"), LANES_CASES.values(), ids=LANES_CASES.keys())
def test_lanes_that_share_a_channel_agree_with_the_definition(shared_lanes, case, masked):
    mask = torch.rand(case["batch"], case["length"], generator=GENERATOR) > 0.4 if masked else None
    errors = relative_errors(arguments(**case, states=16, dtype=torch.bfloat16), mask)
    assert max(errors.values()) < 1e-2, errors
    kept_in_float32 = ("state", "dA", "dD", "dh0", "ddelta_bias")
    assert all(errors[name] < 2e-6 for name in kept_in_float32 if name in errors), errors


@interpreted
def test_kernels_whose_lanes_share_channels_give_what_the_general_ones_give(shared_lanes, monkeypatch):
    from lgbench.ops.scan import triton_scan as scan_triton

    values = {k: v.requires_grad_() for k, v in arguments(1, 41, 5, 16, torch.bfloat16).items()}
    results = []
    for share in (scan_triton.share_lanes, lambda *_: False):
        monkeypatch.setattr(scan_triton, "share_lanes", share)
        y, state = scan_triton.scan(**values, softplus=True)
        results.append([y, state, *torch.autograd.grad(y.float().sum() + state.sum(), list(values.values()))])
    for shared, general in zip(*results, strict=True):
        limit = 1e-2 if shared.dtype == torch.bfloat16 else 1e-5
        torch.testing.assert_close(shared, general, rtol=limit, atol=limit)


@interpreted
def test_lanes_that_share_a_channel_read_rows_that_begin_anywhere(shared_lanes):
    values = arguments(1, 11, 4, 16, torch.bfloat16)
    wide = torch.cat([values["B"][..., :3], values["B"], values["C"]], 2)
    values["B"], values["C"] = wide[..., 3:19], wide[..., 19:]
    error, where = largest_error_keeping_strides(values)
    assert error < 1e-2, where


@interpreted
def test_lanes_share_channels_only_for_16_states_in_bfloat16():
    from lgbench.ops.scan.triton_scan import share_lanes

    assert share_lanes(16, torch.bfloat16, torch.bfloat16)
    assert not share_lanes(8, torch.bfloat16, torch.bfloat16)
    assert not share_lanes(16, torch.bfloat16, torch.float32)


@interpreted
def test_an_all_masked_sequence_returns_its_initial_state():
    from lgbench.ops.scan import triton_scan as scan_triton

    values = arguments(2, 20, 3, 4)
    mask = torch.tensor([[True] * 20, [False] * 20])
    _, state = scan_triton.scan(**values, mask=mask, softplus=True)
    assert torch.equal(state[1], values["h0"][1])
    assert not torch.equal(state[0], values["h0"][0])


@interpreted
def test_time_steps_are_used_as_they_are_without_softplus():
    values = arguments(1, 19, 4, 4, absent=("delta_bias",))
    values["delta"] = values["delta"].abs()
    error, where = largest_error(values, softplus=False)
    assert error < 2e-6, where


@interpreted
@pytest.mark.slow
def test_a_carry_over_more_chunks_than_fit_one_tile_is_exact(monkeypatch):
    from lgbench.ops.scan import triton_scan as scan_triton

    monkeypatch.setattr(scan_triton, "CARRY_TILE", 2)
    error, where = largest_error(arguments(1, 170, 6, 4))
    assert error < 2e-6, where


@interpreted
def test_parts_of_a_projection_are_read_in_place():
    values = arguments(2, 13, 4, 4)
    both = torch.cat([values["x"], values["z"]], 2)
    wide = torch.cat([values["B"], values["C"], values["delta"]], 2)
    values["x"], values["z"] = both.chunk(2, 2)
    values["B"], values["C"], values["delta"] = wide.split(4, 2)
    error, where = largest_error_keeping_strides(values)
    assert error < 2e-6, where


def largest_error_keeping_strides(values):
    """As `largest_error` for y alone, with the arguments as they are."""
    from lgbench.ops.scan import triton_scan as scan_triton

    got, _ = scan_triton.scan(**values, softplus=True)
    wanted, _ = scan_reference.scan(**{k: v.double() for k, v in values.items()}, softplus=True)
    return ((got - wanted).norm() / wanted.norm()).item(), "y"


@interpreted
@pytest.mark.slow
@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    batch=st.integers(1, 3), length=st.integers(1, 40), channels=st.integers(1, 9), states=st.integers(1, 9),
    transposed=st.booleans(),
)  # fmt: skip
def test_any_small_shape_and_layout_agrees(batch, length, channels, states, transposed):
    values = arguments(batch, length, channels, states)
    if transposed:
        for name in ("x", "delta", "z", "B", "C"):
            values[name] = values[name].transpose(1, 2).contiguous().transpose(1, 2)
    error, where = largest_error_keeping_strides(values)
    assert error < 2e-6, where


@interpreted
@pytest.mark.parametrize(("batch", "length"), [(0, 5), (2, 0)], ids=["no-sequence", "no-step"])
def test_empty_input_gives_the_initial_state(batch, length):
    from lgbench.ops.scan import triton_scan as scan_triton

    values = {k: v.requires_grad_() for k, v in arguments(batch, length, 3, 4).items()}
    y, state = scan_triton.scan(**values, softplus=True)
    assert y.shape == (batch, length, 3)
    assert torch.equal(state, values["h0"])
    (grad,) = torch.autograd.grad(state.sum() + y.sum(), values["h0"])
    assert torch.equal(grad, torch.ones_like(grad))


@interpreted
def test_two_halves_with_the_state_handed_on_equal_the_whole():
    from lgbench.ops.scan import triton_scan as scan_triton

    values = arguments(1, 30, 3, 4)
    whole, last = scan_triton.scan(**values, softplus=True)
    parts, state = [], values["h0"]
    for piece in (slice(0, 11), slice(11, 30)):
        part = {k: v[:, piece] if k in ("x", "delta", "B", "C", "z") else v for k, v in values.items()}
        y, state = scan_triton.scan(**{**part, "h0": state}, softplus=True)
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(state, last, rtol=1e-5, atol=1e-5)


@interpreted
def test_only_the_gradients_asked_for_need_a_final_state_gradient():
    from lgbench.ops.scan import triton_scan as scan_triton

    values = {k: v.requires_grad_() for k, v in arguments(1, 20, 3, 4).items()}
    y, state = scan_triton.scan(**values, softplus=True)
    from_state = torch.autograd.grad(state.sum(), values["x"], retain_graph=True)[0]
    from_y = torch.autograd.grad(y.sum(), values["x"], retain_graph=True)[0]
    together = torch.autograd.grad(y.sum() + state.sum(), values["x"])[0]
    torch.testing.assert_close(from_state + from_y, together, rtol=1e-5, atol=1e-5)


@interpreted
@pytest.mark.parametrize("states", [1, 8, 16], ids=lambda n: f"N{n}")
@pytest.mark.parametrize("length", [1, 1537, 131072], ids=lambda n: f"L{n}")
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
def test_chunks_cover_the_length_exactly_once(length, states, backward):
    from lgbench.ops.scan import triton_scan as scan_triton

    p = scan_triton.plan(1, length, 32, states, backward)
    assert p.chunk % scan_triton.SAVE_EVERY == 0
    assert (p.num_chunks - 1) * p.chunk < length <= p.num_chunks * p.chunk


@interpreted
def test_float64_is_refused_with_the_way_out():
    from lgbench.ops.scan import triton_scan as scan_triton

    with pytest.raises(ValueError, match="backend='torch'"):
        scan_triton.scan(**arguments(1, 4, 2, 4, torch.float64))
