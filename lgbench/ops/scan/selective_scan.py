"""The selective scan: one signature, several back ends, all held to one float64 definition.

    h_t = exp(Δ_t A) ∘ h_{t-1} + (Δ_t x_t) ⊗ B_t        h in R^{E×N}
    y_t = h_t C_t + D ∘ x_t, then y_t ∘ SiLU(z_t) where a gate z is given

Sizes: B batch, L length, E d_inner, N d_state. Channel-last everywhere: `(B, L, E)` and `(B, L, N)`.
Source: Gu and Dao, arXiv:2312.00752, Algorithm 2; B discretised as in the released code (ΔB, the Euler rule).
"""

import functools
import importlib
import os
from typing import NamedTuple

import torch
from torch import Tensor

from lgbench.ops.limits import SCAN

BACKENDS = tuple(SCAN)
AUTO_ON_CPU = ("torch",)
AUTO_ON_CUDA = ("triton", "mamba_ssm", "torch")
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


class ScanOutput(NamedTuple):
    """What a scan gives back."""

    y: Tensor
    """`(B, L, E)` in the type of `x`."""
    state: Tensor
    """The state after the last position, `(B, E, N)` float32 (float64 if `x` is); carries a gradient."""


def selective_scan(
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    softplus: bool = False,
    h0: Tensor | None = None,
    mask: Tensor | None = None,
    backend: str = "auto",
) -> ScanOutput:
    """Run the recurrence over a whole sequence; states and sums are float32 even where inputs are narrower.

    An empty batch and length 0 are legal: the state is then `h0`, or zero.

    Args:
        x: input `(B, L, E)`, float32, bfloat16 or float16; float64 on the back ends `reference` and `torch`.
        delta: time step `(B, L, E)`; the raw one if `softplus`, else used as it is.
        A: decay rates `(E, N)`, negative.
        B: input projection `(B, L, N)`.
        C: output projection `(B, L, N)`.
        D: skip weight `(E,)`.
        z: gate `(B, L, E)`; the output is multiplied by SiLU(z).
        delta_bias: `(E,)`, added to `delta` before the softplus.
        softplus: pass `delta` (and its bias) through softplus.
        h0: state before the first position, `(B, E, N)`; None means zero.
        mask: bool `(L,)` or `(B, L)`, True for real tokens. Where it is False, Δ is exactly 0 *after* the
            softplus: the state passes unchanged, and the output is still read from it (`h C + D x`, gated).
        backend: one of `BACKENDS`, or "auto" for the fastest that is usable on the device of `x`.

    Raises:
        ValueError: a shape, type or device does not fit, or the back end is unknown or not usable here.
    """
    _check(*map(_form, (x, delta, A, B, C, D, z, delta_bias, h0, mask)))
    name = resolve_backend(backend, x.device, A.shape[1], x.dtype)
    arguments = (x, delta, A, B, C, D, z, h0, mask, delta_bias, softplus)
    if not torch.is_autocast_enabled(x.device.type):
        return ScanOutput(*_module(name).scan(*arguments))
    with torch.autocast(x.device.type, enabled=False):
        return ScanOutput(*_module(name).scan(*arguments))


def resolve_backend(
    backend: str,
    device: torch.device | str,
    d_state: int | None = None,
    dtype: torch.dtype | None = None,
) -> str:
    """The back end that serves a request on a device: what "auto" picks, or the named one if it is usable.

    Args:
        backend: one of `BACKENDS`, or "auto" for the fastest that can do it.
        device: where.
        d_state: states of a channel; None asks about the device alone.
        dtype: of x; likewise.

    Raises:
        ValueError: the name is unknown, or that back end cannot run on this device or with this size or type;
            says why.
    """
    device = torch.device(device)
    if backend == "auto":
        able = AUTO_ON_CUDA if device.type == "cuda" else AUTO_ON_CPU
        able = [name for name in able if SCAN[name].why_not(d_state, dtype) is None]
        return next(name for name in able if _why_not(name, device) is None)
    if backend not in BACKENDS:
        raise ValueError(f"selective_scan: no back end '{backend}'. Known: auto, {', '.join(BACKENDS)}")
    reason = _why_not(backend, device)
    if reason is not None:
        raise ValueError(
            f"selective_scan: back end '{backend}' cannot run on {device}: {reason}; try backend='auto'"
        )
    if reason := SCAN[backend].why_not(d_state, dtype):
        others = ", ".join(name for name in BACKENDS if SCAN[name].why_not(d_state, dtype) is None)
        raise ValueError(
            f"selective_scan: back end '{backend}' cannot do this: {reason}; use one of {others}"
        )
    return backend


def available_backends() -> dict[str, str | None]:
    """Every back end by name, with None if it is usable on this machine or else the reason why it is not."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return {name: _why_not(name, device) for name in BACKENDS}


def check_backend(
    name: str, device: torch.device | str, length: int, *,
    channels: int = 16, d_state: int = 8, dtype: torch.dtype = torch.float32,
) -> float:  # fmt: skip
    """The relative error of a back end against the float64 reference, on random input of one length.

    The input has a batch of 1, with Δ log-uniform in [0.001, 0.1] as at Mamba's initialisation.

    Args:
        name: the back end, or "auto".
        device: where it runs; the reference runs on the CPU.
        length: tokens, at least 1.
        channels: of x.
        d_state: states of each.
        dtype: of x, Δ, B and C.

    Returns:
        The larger of ‖y − ref‖ / ‖ref‖ over the outputs and over the last state; NaN if the output has any.
    """
    from lgbench.ops.scan import reference as scan_reference

    rng = torch.Generator().manual_seed(length)
    x = torch.randn(1, length, channels, generator=rng).to(dtype)
    delta = (0.001 * 100 ** torch.rand(1, length, channels, generator=rng)).to(dtype)
    A = -torch.arange(1.0, d_state + 1).repeat(channels, 1)
    B, C = (torch.randn(1, length, d_state, generator=rng).to(dtype) for _ in range(2))
    D = torch.ones(channels)
    inputs = (x, delta, A, B, C, D)
    with torch.no_grad():
        got = selective_scan(*(v.to(device) for v in inputs), backend=name)
        wanted = scan_reference.scan(*(v.double() for v in inputs))
    errors = [(a.cpu().double() - b).norm() / b.norm() for a, b in zip(got, wanted, strict=True)]
    return torch.stack(errors).amax().item()


_MODULES = {
    "reference": "reference",
    "torch": "chunked",
    "triton": "triton_scan",
    "mamba_ssm": "mamba_ssm_scan",
}


def _module(name: str):
    return importlib.import_module(f"lgbench.ops.scan.{_MODULES[name]}")


def _why_not(name: str, device: torch.device) -> str | None:
    """Why a back end is not usable on a device; None if it is."""
    if name in ("reference", "torch"):
        return None
    module = {"triton": "triton", "mamba_ssm": "mamba_ssm.ops.selective_scan_interface"}[name]
    interpreted = name == "triton" and os.environ.get("TRITON_INTERPRET") == "1"
    if device.type != "cuda" and not interpreted:
        return "it needs a CUDA device" + (" (or TRITON_INTERPRET=1, for tests)" if name == "triton" else "")
    if device.type == "cuda" and not (torch.cuda.is_initialized() or torch.cuda.is_available()):
        return "this PyTorch finds no CUDA device"
    return _import_error(module)


@functools.cache
def _import_error(module: str) -> str | None:
    try:
        importlib.import_module(module)
    except Exception as error:  # compiled packages fail in many ways; the reason is what the user needs
        return f"cannot import {module} ({type(error).__name__}: {error})"
    return None


class _Form(NamedTuple):
    """What is checked of an argument."""

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device


def _form(argument: Tensor | None) -> _Form | None:
    return None if argument is None else _Form(argument.shape, argument.dtype, argument.device)


@functools.lru_cache(maxsize=1024)  # a refusal is not kept
def _check(x, delta, A, B, C, D, z, delta_bias, h0, mask) -> None:
    """Refuse forms that do not fit, naming the argument, what was given and what is expected."""
    if len(x.shape) != 3:
        raise ValueError(f"selective_scan: x has shape {tuple(x.shape)}, expected (batch, length, d_inner)")
    if len(A.shape) != 2:
        raise ValueError(f"selective_scan: A has shape {tuple(A.shape)}, expected (d_inner, d_state)")
    (batch, length, channels), d_state = x.shape, A.shape[1]
    expected = {
        "x": (x, (batch, length, channels)),
        "delta": (delta, (batch, length, channels)),
        "A": (A, (channels, d_state)),
        "B": (B, (batch, length, d_state)),
        "C": (C, (batch, length, d_state)),
        "D": (D, (channels,)),
        "z": (z, (batch, length, channels)),
        "delta_bias": (delta_bias, (channels,)),
        "h0": (h0, (batch, channels, d_state)),
    }
    for name, (value, shape) in expected.items():
        if value is None:
            continue
        if tuple(value.shape) != shape:
            raise ValueError(
                f"selective_scan: {name} has shape {tuple(value.shape)}, expected {shape}, since x is "
                f"{tuple(x.shape)} (batch, length, d_inner) and A is {tuple(A.shape)} (d_inner, d_state)"
            )
        if value.dtype not in DTYPES:
            raise ValueError(
                f"selective_scan: {name} is {value.dtype}, expected one of {DTYPES}; cast it first"
            )
        _check_device(name, value, x)
    if mask is not None:
        if mask.dtype != torch.bool:
            raise ValueError(
                f"selective_scan: mask is {mask.dtype}, expected torch.bool (True for real tokens)"
            )
        if tuple(mask.shape) not in ((length,), (batch, length)):
            raise ValueError(
                f"selective_scan: mask has shape {tuple(mask.shape)}, "
                f"expected ({length},) or ({batch}, {length})"
            )
        _check_device("mask", mask, x)


def _check_device(name: str, value: _Form, x: _Form) -> None:
    if value.device != x.device:
        raise ValueError(
            f"selective_scan: {name} is on {value.device} but x is on {x.device}; move one of them"
        )
