"""The chunked PyTorch scan against the float64 definition, in values and in gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from lgbench.ops.scan import chunked as scan_torch
from lgbench.ops.scan import reference as scan_reference
from lgbench.ops.scan.selective_scan import selective_scan

ALL = ("D", "z", "h0", "delta_bias")


def arguments(batch, length, channels, d_state, dtype=torch.float32, optional=ALL, seed=0):
    """Random arguments of a scan with softplus; Δ is mostly between 0.001 and 0.3."""
    rng = torch.Generator().manual_seed(seed)
    wide = torch.promote_types(dtype, torch.float32)

    def draw(*shape):
        return torch.randn(*shape, generator=rng, dtype=wide)

    values = {
        "x": draw(batch, length, channels).to(dtype),
        "delta": (draw(batch, length, channels) - 3).to(dtype),
        "A": -8 * torch.rand(channels, d_state, generator=rng, dtype=wide) - 0.01,
        "B": draw(batch, length, d_state).to(dtype),
        "C": draw(batch, length, d_state).to(dtype),
    }
    extra = {
        "D": draw(channels),
        "z": draw(batch, length, channels).to(dtype),
        "h0": draw(batch, channels, d_state),
        "delta_bias": draw(channels),
    }
    return values | {name: extra[name] for name in ALL if name in optional}


def random_mask(batch, length, share=0.7):
    return torch.rand(batch, length, generator=torch.Generator().manual_seed(1)) < share


def results(backend, values, *, dtype=None, mask=None, softplus=True, with_gradients=True):
    """y, the last state, and the gradients of a random functional of both, by name."""
    leaves = {k: v.detach().to(dtype or v.dtype).requires_grad_(with_gradients) for k, v in values.items()}
    y, state = selective_scan(**leaves, mask=mask, softplus=softplus, backend=backend)
    found = {"y": y.detach(), "state": state.detach()}
    if with_gradients:
        rng = torch.Generator().manual_seed(2)
        weights = [torch.randn(v.shape, generator=rng).to(values["x"].dtype) for v in (y, state)]
        weights = [w.to(v.dtype) for w, v in zip(weights, (y, state), strict=True)]
        gradients = torch.autograd.grad((y, state), list(leaves.values()), weights)
        found |= {f"d{name}": gradient for name, gradient in zip(leaves, gradients, strict=True)}
    return found


def errors(values, **kwargs):
    """‖torch − reference‖ / ‖reference‖ of everything, by name; the reference is given float64 throughout."""
    got = results("torch", values, **kwargs)
    wanted = results("reference", values, **{**kwargs, "dtype": torch.float64})
    return {k: ((got[k].double() - v).norm() / v.norm().clamp(min=1e-30)).item() for k, v in wanted.items()}


SHAPES = {
    "B2-L257-E64-N16": (2, 257, 64, 16),
    "B1-L1-E5-N3": (1, 1, 5, 3),
    "B3-L2-E4-N2": (3, 2, 4, 2),
    "B2-L63-E32-N8": (2, 63, 32, 8),
    "B2-L64-E32-N8": (2, 64, 32, 8),
    "B1-L1537-E8-N4": (1, 1537, 8, 4),
    "B5-L31-E1-N1": (5, 31, 1, 1),
    "B1-L300-E512-N16": (1, 300, 512, 16),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=[f"{name}-fp32" for name in SHAPES])
def test_float32_agrees_with_the_definition_in_values_and_gradients(shape):
    found = errors(arguments(*shape), mask=random_mask(*shape[:2], share=0.9))
    assert max(found.values()) < 2e-6, found


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_half_types_lose_no_more_than_the_rounding_of_their_outputs(shape, dtype):
    found = errors(arguments(*shape, dtype))
    assert max(found.values()) < torch.finfo(dtype).eps / 2, found
    assert found["state"] < 2e-6, "the state is kept in float32"


@pytest.mark.parametrize("length", [16_384, 65_536])
def test_long_sequences_agree_with_the_definition_in_values_and_gradients(length):
    found = errors(arguments(1, length, 3, 2))
    assert max(found.values()) < 5e-6, found


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("length", [1, 2, 63, 64, 257, 1537, 16_384, 65_536])
def test_every_length_to_65536_agrees_in_both_types_with_wider_channels(length, dtype):
    found = errors(arguments(2, length, 16, 8, dtype), mask=random_mask(2, length, share=0.9))
    assert max(found.values()) < (5e-6 if dtype == torch.float32 else 2**-8), found


OPTIONS = {
    "plain": ((), False, False),
    "skip": (("D",), False, False),
    "gate": (("z",), False, False),
    "bias-without-softplus": (("delta_bias",), False, False),
    "softplus": ((), True, False),
    "softplus-bias": (("delta_bias",), True, False),
    "h0": (("h0",), True, False),
    "mask": ((), True, True),
    "mask-h0-gate": (("h0", "z"), True, True),
    "everything": (ALL, True, True),
}


@pytest.mark.parametrize(("optional", "softplus", "masked"), OPTIONS.values(), ids=OPTIONS)
def test_every_option_agrees_with_the_definition(optional, softplus, masked):
    values = arguments(2, 45, 6, 4, torch.float64, optional)
    if not softplus:
        values["delta"] = values["delta"].exp()
    found = errors(values, softplus=softplus, mask=random_mask(2, 45) if masked else None)
    assert max(found.values()) < 1e-13, found


def test_gradients_match_finite_differences():
    values = {k: v.requires_grad_() for k, v in arguments(2, 7, 3, 2, torch.float64).items()}
    mask = random_mask(2, 7)

    def function(*leaves):
        return tuple(selective_scan(**dict(zip(values, leaves, strict=True)), softplus=True, mask=mask))

    assert torch.autograd.gradcheck(function, tuple(values.values()))


@pytest.mark.parametrize("only", ["y", "state"])
def test_the_gradient_of_one_output_alone_is_right(only):
    values = arguments(2, 33, 4, 3, torch.float64)
    gradients = []
    for backend in ("torch", "reference"):
        leaves = {k: v.detach().requires_grad_() for k, v in values.items()}
        output = getattr(selective_scan(**leaves, softplus=True, backend=backend), only)
        gradients.append(torch.autograd.grad(output.sum(), list(leaves.values()), materialize_grads=True))
    for got, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


def test_backward_leaves_the_incoming_gradient_alone():
    values = arguments(1, 20, 4, 2, optional=("D",))
    leaves = {k: v.requires_grad_() for k, v in values.items()}
    y, _ = selective_scan(**leaves, softplus=True)
    incoming = torch.randn_like(y)
    kept = incoming.clone()
    y.backward(incoming)
    assert torch.equal(incoming, kept)


def test_a_second_backward_through_the_kept_graph_gives_the_same():
    leaves = {k: v.requires_grad_() for k, v in arguments(2, 40, 4, 2).items()}
    y, state = selective_scan(**leaves, softplus=True)
    loss = y.sum() + state.sum()
    first = torch.autograd.grad(loss, list(leaves.values()), retain_graph=True)
    second = torch.autograd.grad(loss, list(leaves.values()))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_where_every_token_is_masked_the_state_is_bit_identical_and_still_answers():
    values = arguments(2, 300, 8, 4)
    y, state = selective_scan(**values, softplus=True, mask=torch.zeros(300, dtype=torch.bool))
    assert torch.equal(state, values["h0"])
    answer = torch.einsum("ben,bln->ble", values["h0"], values["C"]) + values["D"] * values["x"]
    torch.testing.assert_close(y, answer * torch.nn.functional.silu(values["z"]), rtol=1e-5, atol=1e-5)


def test_masked_tokens_reach_neither_the_state_nor_any_other_output():
    values, mask = arguments(2, 200, 8, 4), random_mask(2, 200)
    altered = {
        name: torch.where(mask[..., None], value, 5.0) if name in ("x", "delta", "B") else value
        for name, value in values.items()
    }
    first, second = (selective_scan(**v, softplus=True, mask=mask) for v in (values, altered))
    assert torch.equal(first.state, second.state)
    assert torch.equal(first.y[mask], second.y[mask])


def test_masked_tokens_get_no_gradient_through_the_state():
    mask = random_mask(2, 50)
    leaves = {k: v.requires_grad_() for k, v in arguments(2, 50, 4, 2, optional=()).items()}
    y, state = selective_scan(**leaves, softplus=True, mask=mask)
    (y.sum() + state.sum()).backward()
    for name in ("x", "delta", "B"):
        assert torch.equal(leaves[name].grad[~mask], torch.zeros_like(leaves[name].grad[~mask]))
        assert leaves[name].grad[mask].abs().min() > 0


def test_pieces_with_the_carried_state_equal_the_whole_with_gradients_through_the_joints():
    values, mask = arguments(2, 257, 5, 3, torch.float64), random_mask(2, 257)
    along = ("x", "delta", "B", "C", "z")

    def whole(leaves):
        return selective_scan(**leaves, softplus=True, mask=mask)

    def pieces(leaves):
        state, outputs = leaves["h0"], []
        for start, stop in ((0, 100), (100, 101), (101, 101), (101, 257)):
            piece = {k: v[:, start:stop] if k in along else v for k, v in leaves.items()}
            y, state = selective_scan(**{**piece, "h0": state}, softplus=True, mask=mask[:, start:stop])
            outputs.append(y)
        return torch.cat(outputs, 1), state

    found = []
    for function in (whole, pieces):
        leaves = {k: v.detach().requires_grad_() for k, v in values.items()}
        y, state = function(leaves)
        gradients = torch.autograd.grad(y.sin().sum() + state.cos().sum(), list(leaves.values()))
        found.append([y, state, *gradients])
    for got, wanted in zip(*found, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-11, atol=1e-11)


def test_decays_that_underflow_stay_exact():
    """Dividing by a cumulated decay would give inf or nan: that of the whole sequence is exp(-12,800)."""
    values = arguments(1, 400, 4, 3, optional=("h0",))
    values["A"], values["delta"] = torch.full((4, 3), -16.0), torch.full((1, 400, 4), 2.0)
    found = errors(values, softplus=False)
    assert max(found.values()) < 2e-6, found


sizes = st.tuples(st.integers(0, 3), st.integers(1, 40), st.integers(1, 5), st.integers(1, 4))


@settings(deadline=None, max_examples=60)
@given(
    shape=sizes,
    cut=st.tuples(st.integers(1, 7), st.integers(1, 9)),
    optional=st.sets(st.sampled_from(ALL)),
    strided=st.sets(st.sampled_from(["x", "delta", "A", "B", "C", "z", "h0"])),
    masking=st.sampled_from(["none", "random", "one row", "all", "shared"]),
    seed=st.integers(0, 2**16),
)
def test_any_shape_stride_mask_and_cut_into_chunks_agrees(shape, cut, optional, strided, masking, seed):
    batch, length = shape[:2]
    values = arguments(*shape, torch.float64, optional, seed)
    for name in strided & values.keys():
        values[name] = values[name].mT.contiguous().mT
    mask = random_mask(batch, length)
    if masking == "one row":
        mask[:1] = False
    mask = {"none": None, "all": torch.zeros_like(mask), "shared": random_mask(1, length)[0]}.get(
        masking, mask
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan_torch, "_plan", lambda *_: scan_torch._Plan(*cut))
        found = errors(values, mask=mask)
    assert max(found.values()) < 1e-12, found


def test_expanded_inputs_get_the_gradient_of_what_they_share():
    values = arguments(1, 30, 4, 3, optional=())
    shared = {k: v[:, :1].requires_grad_() if v.ndim == 3 else v for k, v in values.items()}
    found = []
    for backend in ("torch", "reference"):
        given_ = {k: v.expand(2, 30, -1) if v.ndim == 3 else v for k, v in shared.items()}
        loss = selective_scan(**given_, softplus=True, backend=backend).y.sum()
        found.append(torch.autograd.grad(loss, [v for v in shared.values() if v.requires_grad]))
    for got, wanted in zip(*found, strict=True):
        torch.testing.assert_close(got, wanted)


class _Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operation returned."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        if isinstance(output, torch.Tensor):
            self.elements = max(self.elements, output.numel())
        return output


def test_no_tensor_of_the_length_times_the_state_is_ever_made():
    batch, length, channels, d_state = 1, 8192, 16, 64
    leaves = {k: v.requires_grad_() for k, v in arguments(batch, length, channels, d_state).items()}
    with _Largest() as seen:
        y, state = selective_scan(**leaves, softplus=True)
        (y.sum() + state.sum()).backward()
    block = 2**20
    assert batch * length * channels * d_state > 4 * block
    assert seen.elements <= 1.1 * block


def test_less_than_one_state_in_sixteen_is_kept_for_backward():
    batch, length, channels, d_state = 1, 8192, 16, 64
    kept = []

    def pack(tensor):
        if tensor.shape[-2:] == (d_state, channels):
            kept.append(tensor.numel())
        return tensor

    leaves = {k: v.requires_grad_() for k, v in arguments(batch, length, channels, d_state).items()}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        selective_scan(**leaves, softplus=True)
    assert 0 < sum(kept) < batch * length * channels * d_state / 16


def test_without_gradients_nothing_is_kept():
    calls = []
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan_torch._Scan, "backward", None)
        patch.setattr(torch.autograd.function.FunctionCtx, "save_for_backward", lambda _, *v: calls.append(v))
        selective_scan(**{k: v.requires_grad_() for k, v in arguments(1, 4096, 8, 4).items()}, softplus=True)
    assert [len(v) for v in calls] == [6], "only the inputs are handed over, no states"


def test_the_same_input_gives_the_same_bits():
    values = arguments(2, 500, 16, 8)
    first, second = (results("torch", values) for _ in range(2))
    assert all(torch.equal(first[k], second[k]) for k in first)


def test_the_module_agrees_with_the_reference_without_the_dispatcher():
    values = arguments(1, 9, 3, 2, torch.float64)
    names = ("x", "delta", "A", "B", "C", "D", "z", "h0")
    got, wanted = (
        m.scan(*(values[n] for n in names), None, values["delta_bias"], True)
        for m in (scan_torch, scan_reference)
    )
    torch.testing.assert_close(got, wanted)
