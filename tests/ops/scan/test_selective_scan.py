"""The dispatcher of the selective scan, its checks of arguments, and the definition of every back end."""

import math
import sys
import types

import pytest
import torch

from lgbench.ops.scan import reference as scan_reference
from lgbench.ops.scan import selective_scan
from lgbench.ops.scan.selective_scan import available_backends, check_backend, resolve_backend

scan = selective_scan.selective_scan
CPU_BACKENDS = ("reference", "torch")


def arguments(batch=2, length=5, channels=3, d_state=4, dtype=torch.float32):
    rng = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=rng).to(dtype)

    return {
        "x": draw(batch, length, channels),
        "delta": draw(batch, length, channels),
        "A": -torch.rand(channels, d_state, generator=rng),
        "B": draw(batch, length, d_state),
        "C": draw(batch, length, d_state),
        "D": draw(channels),
        "z": draw(batch, length, channels),
        "delta_bias": draw(channels),
        "h0": draw(batch, channels, d_state),
    }


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_two_steps_by_hand(backend):
    one = torch.ones(1, 1, 1)
    x = torch.tensor([2.0, 3.0])[None, :, None]
    delta = torch.tensor([0.5, 0.25])[None, :, None]
    B, C = torch.tensor([[[1.0], [4.0]]]), torch.tensor([[[10.0], [100.0]]])
    y, state = scan(x, delta, -one[0], B, C, torch.tensor([7.0]), h0=one, backend=backend)
    h1 = math.exp(-0.5) * 1 + 0.5 * 2 * 1
    h2 = math.exp(-0.25) * h1 + 0.25 * 3 * 4
    torch.testing.assert_close(y.flatten(), torch.tensor([10 * h1 + 14, 100 * h2 + 21]))
    torch.testing.assert_close(state.flatten(), torch.tensor([h2]))


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_a_constant_input_settles_at_the_fixed_point_of_the_recurrence(backend):
    x, delta = torch.full((1, 400, 1), 3.0), torch.full((1, 400, 1), 0.1)
    B = C = torch.ones(1, 400, 1)
    y, _ = scan(x, delta, torch.full((1, 1), -2.0), B, C, backend=backend)
    assert y[0, -1, 0].item() == pytest.approx(0.1 * 3 / (1 - math.exp(-0.2)), rel=1e-5)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_gate_bias_softplus_and_skip_are_what_they_say(backend):
    given = arguments()
    y, state = scan(**given, softplus=True, backend=backend)
    z, D = given.pop("z"), given.pop("D")
    delta = torch.nn.functional.softplus(given["delta"] + given.pop("delta_bias"))
    plain = scan(**{**given, "delta": delta}, backend=backend)
    torch.testing.assert_close(y, (plain.y + D * given["x"]) * z * torch.sigmoid(z))
    torch.testing.assert_close(state, plain.state)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_outputs_have_the_type_of_x_and_states_are_at_least_float32(backend, dtype):
    y, state = scan(**arguments(dtype=dtype), backend=backend)
    assert y.dtype == dtype
    assert state.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize(("batch", "length"), [(0, 5), (2, 0), (0, 0)])
def test_an_empty_batch_or_length_gives_an_empty_output_and_leaves_the_state(backend, batch, length):
    given = arguments(batch, length)
    y, state = scan(**given, backend=backend)
    assert y.shape == (batch, length, 3)
    assert torch.equal(state, given["h0"])
    assert torch.equal(scan(**{**given, "h0": None}, backend=backend).state, torch.zeros(batch, 3, 4))


def test_the_definition_computes_in_float64_whatever_the_input():
    given = arguments(length=200)
    got = scan(**given, softplus=True, backend="reference")
    wanted = scan(**{k: v.double() for k, v in given.items()}, softplus=True, backend="reference")
    torch.testing.assert_close(got.y, wanted.y.float(), rtol=0, atol=0)
    torch.testing.assert_close(got.state, wanted.state.float(), rtol=0, atol=0)


def test_a_mask_may_be_shared_by_the_batch():
    given, mask = arguments(), torch.tensor([True, False, True, True, False])
    shared = scan(**given, softplus=True, mask=mask)
    each = scan(**given, softplus=True, mask=mask.expand(2, 5))
    assert torch.equal(shared.y, each.y)
    assert torch.equal(shared.state, each.state)


def test_autocast_does_not_narrow_the_scan():
    given = arguments()
    wanted = scan(**given, softplus=True)
    with torch.autocast("cpu", torch.bfloat16):
        got = scan(**given, softplus=True)
    assert torch.equal(got.y, wanted.y)
    assert torch.equal(got.state, wanted.state)


def test_auto_is_torch_on_the_cpu():
    assert resolve_backend("auto", "cpu") == "torch"
    assert resolve_backend("auto", torch.device("cpu")) == "torch"


def test_auto_on_cuda_prefers_triton_then_mamba_ssm_then_torch(monkeypatch):
    missing = set()
    monkeypatch.setattr(selective_scan, "_why_not", lambda name, _: "gone" if name in missing else None)
    assert resolve_backend("auto", "cuda") == "triton"
    missing.add("triton")
    assert resolve_backend("auto", "cuda") == "mamba_ssm"
    missing.add("mamba_ssm")
    assert resolve_backend("auto", "cuda:1") == "torch"


def test_auto_gives_float64_to_torch_and_a_named_kernel_refuses_it(monkeypatch):
    called = []

    def fake_scan(x, *rest):
        called.append(x.dtype)
        return scan_reference.scan(x, *rest)

    monkeypatch.setattr(selective_scan, "_why_not", lambda name, device: None)
    monkeypatch.setattr(selective_scan, "AUTO_ON_CPU", ("triton", "torch"))
    monkeypatch.setitem(sys.modules, "lgbench.ops.scan.triton_scan", types.SimpleNamespace(scan=fake_scan))
    scan(**arguments())
    scan(**{k: v.double() for k, v in arguments().items()})
    assert called == [torch.float32]
    with pytest.raises(
        ValueError, match=r"'triton' cannot do this: it has no float64; use one of reference, torch"
    ):
        scan(**{k: v.double() for k, v in arguments().items()}, backend="triton")


def test_an_unknown_back_end_is_refused_with_the_known_ones():
    with pytest.raises(
        ValueError, match=r"no back end 'cuda'. Known: auto, reference, torch, triton, mamba_ssm"
    ):
        scan(**arguments(), backend="cuda")


def test_a_back_end_that_cannot_run_here_says_why():
    with pytest.raises(ValueError, match=r"'mamba_ssm' cannot run on cpu: it needs a CUDA device"):
        resolve_backend("mamba_ssm", "cpu")


def test_triton_on_a_cpu_needs_the_interpreter(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match="TRITON_INTERPRET=1"):
        resolve_backend("triton", "cpu")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(selective_scan, "_import_error", lambda module: None)
    assert resolve_backend("triton", "cpu") == "triton"


def test_a_package_that_fails_to_import_is_a_reason_and_not_a_crash(monkeypatch):
    def broken(module):
        raise OSError("undefined symbol: _ZN3c10")

    monkeypatch.setattr(selective_scan.importlib, "import_module", broken)
    reason = selective_scan._import_error.__wrapped__("mamba_ssm")
    assert reason == "cannot import mamba_ssm (OSError: undefined symbol: _ZN3c10)"


def test_every_back_end_is_listed_as_usable_or_with_a_reason():
    listed = available_backends()
    assert list(listed) == ["reference", "torch", "triton", "mamba_ssm"]
    assert listed["reference"] is None and listed["torch"] is None
    if not torch.cuda.is_available():
        assert "CUDA" in listed["mamba_ssm"]


@pytest.mark.parametrize("backend", [*CPU_BACKENDS, "auto"])
@pytest.mark.parametrize("length", [1, 777])
def test_the_check_finds_the_cpu_back_ends_right_to_float32(backend, length):
    assert check_backend(backend, "cpu", length) < 1e-6


def test_the_check_finds_a_wrong_back_end(monkeypatch):
    def wrong(*args):
        y, state = scan_reference.scan(*args)
        return torch.cat([y[:, :-1], 2 * y[:, -1:]], 1), state

    monkeypatch.setitem(sys.modules, "lgbench.ops.scan.chunked", types.SimpleNamespace(scan=wrong))
    assert check_backend("torch", "cpu", 50) > 0.01


def test_the_check_reports_a_back_end_that_gives_nan(monkeypatch):
    def broken(*args):
        y, state = scan_reference.scan(*args)
        return y, state * math.nan

    monkeypatch.setitem(sys.modules, "lgbench.ops.scan.chunked", types.SimpleNamespace(scan=broken))
    assert math.isnan(check_backend("torch", "cpu", 50))


WRONG = {
    "x": (torch.zeros(5, 3), r"x has shape \(5, 3\), expected \(batch, length, d_inner\)"),
    "delta": (torch.zeros(2, 5, 4), r"delta has shape \(2, 5, 4\), expected \(2, 5, 3\)"),
    "A": (torch.zeros(3), r"A has shape \(3,\), expected \(d_inner, d_state\)"),
    "B": (torch.zeros(2, 4, 5), r"B has shape \(2, 4, 5\), expected \(2, 5, 4\)"),
    "C": (torch.zeros(2, 5, 3), r"C has shape \(2, 5, 3\), expected \(2, 5, 4\)"),
    "D": (torch.zeros(3, 1), r"D has shape \(3, 1\), expected \(3,\)"),
    "z": (torch.zeros(2, 3, 5), r"z has shape \(2, 3, 5\), expected \(2, 5, 3\)"),
    "delta_bias": (torch.zeros(4), r"delta_bias has shape \(4,\), expected \(3,\)"),
    "h0": (torch.zeros(2, 4, 3), r"h0 has shape \(2, 4, 3\), expected \(2, 3, 4\)"),
    "mask": (torch.zeros(5, 2, dtype=torch.bool), r"mask has shape \(5, 2\), expected \(5,\) or \(2, 5\)"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_shape_is_refused_with_the_right_one(name):
    value, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        scan(**{**arguments(), name: value})


@pytest.mark.parametrize("name", ["x", "delta", "A", "B", "C", "D", "z", "delta_bias", "h0"])
def test_integers_are_refused(name):
    given = arguments()
    with pytest.raises(ValueError, match=rf"{name} is torch.int64, expected one of"):
        scan(**{**given, name: given[name].long()})


def test_a_mask_of_numbers_is_refused():
    with pytest.raises(ValueError, match=r"mask is torch.float32, expected torch.bool"):
        scan(**arguments(), mask=torch.ones(5))


def test_tensors_on_two_devices_are_refused():
    with pytest.raises(ValueError, match="B is on meta but x is on cpu"):
        scan(**{**arguments(), "B": torch.zeros(2, 5, 4, device="meta")})


def test_what_was_refused_once_is_refused_again_and_what_fits_is_still_taken():
    given = arguments()
    for _ in range(2):
        with pytest.raises(ValueError, match=r"B has shape \(2, 4, 4\), expected \(2, 5, 4\)"):
            scan(**{**given, "B": given["B"][:, 1:]})
        assert scan(**given).y.shape == (2, 5, 3)
