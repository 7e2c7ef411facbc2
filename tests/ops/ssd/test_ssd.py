"""The chunked dual form equals the recurrence by its definition: outputs, last states and all gradients."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lgbench.ops.scan.selective_scan import selective_scan
from lgbench.ops.ssd import ssd as module
from lgbench.ops.ssd.ssd import resolve_ssd_backend, ssd

NAMES = ("x", "delta", "A", "B", "C", "D", "h0")
SHAPES = [
    # batch, length, heads, head_dim, d_state
    (2, 1, 4, 8, 4),
    (2, 5, 4, 8, 8),
    (1, 32, 3, 4, 16),
    (3, 33, 1, 1, 1),
    (2, 129, 2, 16, 128),
    (1, 700, 4, 8, 8),
]
IDS = [f"B{b}-L{length}-H{h}-P{p}-N{n}" for b, length, h, p, n in SHAPES]


def inputs(batch=2, length=100, heads=4, head_dim=8, d_state=4, dtype=torch.float64, scale=1.0):
    """Keyword arguments: Δ log-uniform in `scale` times [0.001, 0.1], A in [-16, -1]."""
    rng = torch.Generator().manual_seed(length)

    def normal(*shape):
        return torch.randn(*shape, generator=rng, dtype=dtype)

    return {
        "x": normal(batch, length, heads, head_dim),
        "delta": scale * 0.001 * 100 ** torch.rand(batch, length, heads, generator=rng, dtype=dtype),
        "A": -1 - 15 * torch.rand(heads, generator=rng, dtype=dtype),
        "B": normal(batch, length, d_state),
        "C": normal(batch, length, d_state),
        "D": normal(heads),
        "h0": normal(batch, heads, head_dim, d_state),
    }


def cast(values, dtype):
    return {name: v.to(dtype) for name, v in values.items()}


def error(got, wanted):
    return ((got.double() - wanted.double()).norm() / wanted.double().norm()).item()


@pytest.mark.parametrize("shape", SHAPES, ids=IDS)
@pytest.mark.parametrize(
    "dtype, bound", [(torch.float64, 1e-14), (torch.float32, 1e-6)], ids=["fp64", "fp32"]
)
def test_it_equals_the_recurrence(shape, dtype, bound):
    values = inputs(*shape)
    wanted, got = ssd(**values, backend="reference"), ssd(**cast(values, dtype))
    assert got.y.dtype == got.state.dtype == dtype
    assert error(got.y, wanted.y) < bound and error(got.state, wanted.state) < bound


@pytest.mark.parametrize("pieces", ["one block", "many blocks"])
@pytest.mark.parametrize(
    "dtype, bound", [(torch.float64, 1e-13), (torch.float32, 1e-5)], ids=["fp64", "fp32"]
)
def test_its_gradients_are_those_of_the_recurrence(monkeypatch, pieces, dtype, bound):
    if pieces == "many blocks":
        monkeypatch.setattr(module, "MOST_CHUNKS", 2)
    values, gradients = inputs(length=150), []
    weight = torch.randn(2, 150, 4, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for backend, kind in (("reference", torch.float64), ("torch", dtype)):
        leaves = {name: v.detach().to(kind).requires_grad_() for name, v in values.items()}
        out = ssd(**leaves, backend=backend)
        ((out.y * weight).sum() + out.state.square().sum()).backward()
        gradients.append({name: leaf.grad for name, leaf in leaves.items()})
    for name in NAMES:
        assert error(gradients[1][name], gradients[0][name]) < bound, name


def test_the_last_state_alone_has_a_gradient():
    values = {name: v.requires_grad_() for name, v in inputs(length=40).items()}
    ssd(**values).state.sum().backward()
    assert all(values[name].grad.abs().max() > 0 for name in ("x", "delta", "A", "B", "h0"))
    assert values["C"].grad is None or not values["C"].grad.any()


def test_it_is_the_selective_scan_with_one_decay_in_each_head():
    """Mamba-1's definition, told apart from this one only by A and Δ that are equal within a head."""
    values = inputs(length=50, heads=4, head_dim=8, d_state=4)
    out = ssd(**values)
    wide = selective_scan(
        values["x"].flatten(2),
        values["delta"].repeat_interleave(8, dim=-1),
        values["A"].repeat_interleave(8)[:, None].expand(-1, 4).contiguous(),
        values["B"],
        values["C"],
        values["D"].repeat_interleave(8),
        h0=values["h0"].flatten(1, 2),
        backend="reference",
    )
    torch.testing.assert_close(out.y.flatten(2), wide.y)
    torch.testing.assert_close(out.state.flatten(1, 2), wide.state)


@pytest.mark.parametrize("cuts", [(1,), (64,), (10, 11, 99), tuple(range(10, 100, 10))], ids=str)
def test_pieces_with_a_passed_state_equal_the_whole(cuts):
    values = inputs(length=100)
    whole, state, outputs = ssd(**values), values.pop("h0"), []
    along = {name: values.pop(name).tensor_split(cuts, dim=1) for name in ("x", "delta", "B", "C")}
    for k in range(len(cuts) + 1):
        piece = ssd(**{name: parts[k] for name, parts in along.items()}, **values, h0=state)
        outputs.append(piece.y)
        state = piece.state
    torch.testing.assert_close(torch.cat(outputs, 1), whole.y)
    torch.testing.assert_close(state, whole.state)


def test_blocks_of_chunks_equal_one_block(monkeypatch):
    values = inputs(length=300)
    whole = ssd(**values)
    monkeypatch.setattr(module, "MOST_CHUNKS", 3)
    parts = ssd(**values)
    torch.testing.assert_close(parts.y, whole.y)
    torch.testing.assert_close(parts.state, whole.state)


@pytest.mark.parametrize("rows", ["one mask", "a mask for each"])
def test_a_masked_token_is_a_deleted_one_at_the_others(rows):
    values = inputs(length=80)
    mask = torch.rand(2, 80, generator=torch.Generator().manual_seed(0)) > 0.3
    if rows == "one mask":
        mask = mask[:1].expand(2, -1)
    got = ssd(**values, mask=mask[0] if rows == "one mask" else mask)
    for row in range(2):
        real = {n: v[row : row + 1, mask[row]] for n, v in values.items() if n in ("x", "delta", "B", "C")}
        alone = ssd(**real, A=values["A"], D=values["D"], h0=values["h0"][row : row + 1])
        torch.testing.assert_close(got.y[row, mask[row]], alone.y[0])
        torch.testing.assert_close(got.state[row], alone.state[0])


def test_a_masked_sequence_leaves_the_state_bit_for_bit_untouched():
    values = cast(inputs(length=70), torch.float32)
    out = ssd(**values, mask=torch.zeros(70, dtype=torch.bool))
    assert torch.equal(out.state, values["h0"])


@pytest.mark.parametrize("scale", [1e-4, 1e3, 1e6])
def test_tiny_and_huge_time_steps_stay_finite_and_right(scale):
    """Huge ones forget everything, also within a chunk where sums of exponents reach thousands."""
    values = inputs(length=200, scale=scale)
    wanted, got = ssd(**values, backend="reference"), ssd(**cast(values, torch.float32))
    assert got.y.isfinite().all() and got.state.isfinite().all()
    assert error(got.y, wanted.y) < 1e-5 and error(got.state, wanted.state) < 1e-5


def test_time_steps_of_zero_and_huge_ones_side_by_side_have_finite_gradients():
    values = cast(inputs(length=90), torch.float32)
    values["delta"][:, ::3], values["delta"][:, 1::7] = 0.0, 1e5
    values = {name: v.requires_grad_() for name, v in values.items()}
    out = ssd(**values)
    (out.y.square().sum() + out.state.square().sum()).backward()
    assert all(v.grad.isfinite().all() for v in values.values())


def test_narrow_inputs_are_computed_in_float32():
    values = inputs(length=200)
    narrow = values | {n: values[n].bfloat16() for n in ("x", "B", "C")}
    got, wanted = ssd(**narrow), ssd(**cast(narrow, torch.float64), backend="reference")
    assert got.y.dtype == torch.bfloat16 and got.state.dtype == torch.float32
    assert error(got.state, wanted.state) < 1e-6 and error(got.y, wanted.y) < 3e-3


class _Largest(TorchDispatchMode):
    """Notes the largest tensor that is made."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **kwargs or {})
        for one in out if isinstance(out, tuple) else (out,):
            if isinstance(one, torch.Tensor):
                self.numel = max(self.numel, one.numel())
        return out


def test_no_tensor_grows_with_the_square_of_the_length():
    sizes = []
    for length in (4096, 16_384):
        values = {n: v.requires_grad_() for n, v in inputs(1, length, 4, 8, 8, torch.float32).items()}
        with _Largest() as largest:
            ssd(**values).y.sum().backward()
        sizes.append(largest.numel)
    assert sizes[1] <= 4 * sizes[0] and sizes[1] <= 16_384 * 4 * module.CHUNK


@pytest.mark.parametrize("shape", [(0, 5), (2, 0)], ids=["no sequence", "no token"])
def test_nothing_to_read_leaves_the_first_state(shape):
    values = inputs(*shape)
    out = ssd(**values)
    assert out.y.shape == (*shape, 4, 8) and torch.equal(out.state, values["h0"])
    assert not ssd(**{n: v for n, v in values.items() if n != "h0"}).state.any()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"delta": torch.zeros(2, 100, 8)}, "delta has shape"),
        ({"A": torch.zeros(4, 4)}, "A has shape"),
        ({"h0": torch.zeros(2, 4, 4, 8)}, "h0 has shape"),
        ({"mask": torch.ones(100)}, "mask is torch.float32"),
        ({"x": torch.zeros(2, 100, 32)}, "expected \\(batch, length, heads, head_dim\\)"),
        ({"B": torch.zeros(2, 100, 1, 4)}, "expected \\(batch, length, d_state\\)"),
        ({"backend": "triton"}, "no scan back end 'triton'. Known: auto, reference, torch, mamba_ssm"),
        ({"backend": "mamba_ssm"}, "cannot run on cpu: it needs a CUDA device; try 'auto'"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        ssd(**inputs() | change)


def test_auto_is_plain_torch_everywhere():
    assert resolve_ssd_backend("auto", "cpu") == resolve_ssd_backend("auto", "cuda") == "torch"
