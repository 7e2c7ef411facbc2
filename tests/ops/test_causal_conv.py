"""The causal convolution is that of `torch.nn.functional`, whole or in pieces, in PyTorch and in Triton.

Triton's part runs in its interpreter, in a process of its own that the first test starts.
"""

import os

import pytest
import torch
from torch.nn import functional as F

from lgbench.ops.causal_conv import causal_conv

GENERATOR = torch.Generator().manual_seed(0)
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
interpreted = pytest.mark.skipif(not INTERPRETED, reason="runs in the process that the first test starts")
NAMES = ("x", "weight", "bias", "before")


@pytest.mark.skipif(INTERPRETED, reason="this is that process")
def test_all_claims_of_this_file_hold_in_the_interpreter(interpret):
    result = interpret(__file__)
    assert result.returncode == 0, result.stdout + result.stderr


def draw(*shape, dtype=torch.float32):
    return torch.randn(*shape, generator=GENERATOR).to(dtype)


def arguments(batch, length, channels, taps, dtype=torch.float32):
    return dict(
        x=draw(batch, length, channels, dtype=dtype),
        weight=draw(channels, taps),
        bias=draw(channels),
        before=draw(batch, taps - 1, channels, dtype=dtype),
    )


def definition(x, weight, bias=None, before=None):
    """`conv1d` in float64 over everything that came before."""
    taps = weight.shape[1]
    past = x.new_zeros(len(x), taps - 1, x.shape[2]) if before is None else before
    inputs = torch.cat([past, x], dim=1).mT
    return F.silu(F.conv1d(inputs, weight[:, None], bias, groups=len(weight))).mT


def triton_conv(x, weight, bias=None, before=None):
    from lgbench.ops.causal_conv_triton import CausalConv

    return CausalConv.apply(x, weight, bias, before, None, None)


def torch_conv(*arguments):
    return causal_conv(*arguments)[0]


def largest_error(function, values):
    """The largest ‖got − wanted‖ / ‖wanted‖ over y and all gradients, and the name of where it is."""
    weights = draw(*values["x"].shape)
    results = []
    for convolve, dtype in ((function, None), (definition, torch.float64)):
        leaves = {k: v.detach().to(dtype or v.dtype).requires_grad_() for k, v in values.items()}
        y = convolve(*(leaves.get(name) for name in NAMES))
        used = [leaf for leaf in leaves.values() if leaf.numel()]
        results.append([y, *torch.autograd.grad((y.double() * weights).sum(), used)])
        names = ["y", *(f"d{name}" for name, leaf in leaves.items() if leaf.numel())]
    errors = {
        name: ((got.double() - wanted).norm() / (wanted.norm() + 1e-30)).item()
        for name, got, wanted in zip(names, *results, strict=True)
    }
    worst = max(errors, key=errors.get)
    return errors[worst], worst


CASES = {
    "B2-L21-E5-K4": arguments(2, 21, 5, 4),
    "B1-L1-E3-K4-shorter-than-the-taps": arguments(1, 1, 3, 4),
    "B2-L8-E2-K2-one-group": arguments(2, 8, 2, 2),
    "B1-L67-E3-K4-just-over-a-chunk": arguments(1, 67, 3, 4),
    "B1-L130-E2-K3-three-chunks": arguments(1, 130, 2, 3),
    "B1-L9-E130-K4-two-blocks": arguments(1, 9, 130, 4),
    "B1-L6-E2-K1-no-past": arguments(1, 6, 2, 1),
    "B1-L9-E4-K4-plain": {k: v for k, v in arguments(1, 9, 4, 4).items() if k in ("x", "weight")},
}


@pytest.mark.parametrize(
    "function", [torch_conv, pytest.param(triton_conv, marks=interpreted)], ids=["torch", "triton"]
)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_values_and_gradients_agree_with_conv1d(case, function):
    error, where = largest_error(function, case)
    assert error < 2e-6, where


@pytest.mark.parametrize(
    "function", [torch_conv, pytest.param(triton_conv, marks=interpreted)], ids=["torch", "triton"]
)
@pytest.mark.parametrize(
    ("dtype", "limit"), [(torch.bfloat16, 5e-3), (torch.float16, 6e-4)], ids=["bf16", "fp16"]
)
def test_half_types_are_summed_in_float32(dtype, limit, function):
    """Only the last rounding is left, half a unit in the last place: 2^-9 and 2^-12."""
    values = arguments(1, 40, 4, 4, dtype)
    error, where = largest_error(function, values)
    assert error < limit, where
    leaves = [v.requires_grad_() for v in values.values()]
    y = function(*leaves)
    assert y.dtype == dtype
    for leaf, gradient in zip(leaves, torch.autograd.grad(y.sum(), leaves), strict=True):
        assert gradient.dtype == leaf.dtype


MASKS = {
    "left-padding": torch.arange(40) >= torch.tensor([[5], [38], [0]]),
    "holes": torch.rand(3, 40, generator=GENERATOR) > 0.4,
    "all-or-none": torch.tensor([[True], [False], [True]]).expand(3, 40),
    "one-mask": torch.arange(40) >= 3,
}


@pytest.mark.parametrize("with_past", [False, True], ids=["start", "piece"])
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())
@pytest.mark.parametrize("taps", [1, 2, 4])
def test_masked_tokens_might_as_well_not_be_there(mask, with_past, taps):
    values = arguments(3, 40, 3, taps)
    x, weight, bias, before = values.values()
    before = before if with_past else None
    y, carried = causal_conv(x, weight, bias, before, mask)
    for row, real in enumerate(mask.expand(3, 40)):
        past = None if before is None else before[row : row + 1]
        alone, last = causal_conv(x[row : row + 1, real], weight, bias, past)
        torch.testing.assert_close(y[row, real], alone[0], rtol=1e-5, atol=1e-6)
        assert torch.equal(carried[row], last[0])
    assert y.isfinite().all()


@interpreted
@pytest.mark.parametrize(
    ("mask", "with_past"),
    [("left-padding", True), ("holes", False), ("all-or-none", True)],
)
def test_the_kernel_goes_around_masked_tokens_with_gradients(mask, with_past, monkeypatch):
    """Gradients that reach masked outputs are dropped: they mean nothing."""
    from lgbench.ops import causal_conv_triton
    from lgbench.ops.causal_conv import _masked_on_cuda, _sorted

    monkeypatch.setattr(causal_conv_triton, "CHUNK", 16)
    x, weight, bias, before = arguments(3, 40, 3, 4).values()
    mask = MASKS[mask].expand(3, 40)
    dy = draw(3, 40, 3) * mask.unsqueeze(-1)
    dlast = draw(3, 3, 3)
    results = []
    for function, dtype in ((_masked_on_cuda, torch.float32), (_sorted, torch.float64)):
        leaves = [t.detach().to(dtype).requires_grad_() for t in (x, weight, bias)]
        y, carried = function(*leaves, before.to(dtype) if with_past else None, mask)
        loss = (y * dy).sum() + (carried * dlast).sum()
        results.append([y * mask.unsqueeze(-1), carried, *torch.autograd.grad(loss, leaves)])
    for name, got, wanted in zip(("y", "carried", "dx", "dweight", "dbias"), *results, strict=True):
        assert (got.double() - wanted).norm() <= 2e-6 * wanted.norm(), name


def test_float64_stays_float64():
    values = {name: value.double() for name, value in arguments(2, 9, 3, 4).items()}
    y, carried = causal_conv(**values)
    assert y.dtype == carried.dtype == torch.float64
    torch.testing.assert_close(y, definition(**values), rtol=1e-13, atol=1e-13)


@interpreted
def test_a_part_of_a_projection_is_read_in_place():
    both = draw(2, 19, 12)
    x, other = both.chunk(2, dim=-1)
    weight, bias = draw(6, 4), draw(6)
    got = triton_conv(x, weight, bias)
    torch.testing.assert_close(got, definition(x, weight, bias), rtol=1e-5, atol=1e-6)
    dy = draw(2, 19, 12)[..., 6:]
    leaf = both.detach().requires_grad_()
    (found,) = torch.autograd.grad(triton_conv(leaf.chunk(2, -1)[0], weight, bias), leaf, dy)
    (wanted,) = torch.autograd.grad(definition(leaf.chunk(2, -1)[0], weight, bias), leaf, dy)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    assert torch.equal(found[..., 6:], torch.zeros_like(other))


@interpreted
def test_any_other_layout_gives_the_same():
    x, weight = draw(2, 6, 19).mT, draw(6, 4)
    torch.testing.assert_close(triton_conv(x, weight), definition(x, weight), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cuts", [(1,), (1, 2, 3), (4, 5, 11), (0, 0)], ids=str)
def test_pieces_with_carried_inputs_equal_the_whole(cuts):
    values = arguments(2, 12, 3, 4)
    whole, last = causal_conv(**values)
    parts, before = [], values["before"]
    for piece in values["x"].tensor_split(cuts, dim=1):
        y, before = causal_conv(piece, values["weight"], values["bias"], before)
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-6, atol=1e-6)
    assert torch.equal(before, last)


def test_gradients_flow_through_what_is_carried():
    values = {name: value.requires_grad_() for name, value in arguments(1, 10, 3, 4).items()}
    whole = torch.autograd.grad(causal_conv(**values)[0].square().sum(), values["x"])[0]
    first, carried = causal_conv(values["x"][:, :6], *(values[name] for name in NAMES[1:]))
    second, _ = causal_conv(values["x"][:, 6:], values["weight"], values["bias"], carried)
    parts = torch.autograd.grad(first.square().sum() + second.square().sum(), values["x"])[0]
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-6)


def test_what_is_carried_keeps_nothing_else_alive():
    x = draw(1, 1000, 3)
    _, carried = causal_conv(x, draw(3, 4), None)
    assert torch.equal(carried, x[:, -3:])
    assert carried.untyped_storage().nbytes() == 3 * 3 * 4


def test_autocast_changes_nothing():
    values = arguments(1, 7, 3, 4)
    plain = causal_conv(**values)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = causal_conv(**values)
    assert all(torch.equal(a, b) for a, b in zip(plain, cast, strict=True))


@pytest.mark.parametrize(
    ("name", "shape"),
    [("weight", (4, 4)), ("bias", (4,)), ("before", (2, 4, 3)), ("x", (2, 9)), ("mask", (3, 9))],
    ids=["weight", "bias", "before", "x", "mask"],
)
def test_what_does_not_fit_is_refused_by_name(name, shape):
    values = arguments(2, 9, 3, 4)
    values[name] = draw(*shape)
    with pytest.raises(ValueError, match=rf"causal_conv: .*{name}"):
        causal_conv(**values)
