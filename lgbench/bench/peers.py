"""Public implementations of the selective scan, each called in its own layout as its own models call it.

    mamba_ssm      the compiled kernel of mamba-ssm, without the autograd layer around it
    mambapy        the parallel scan in PyTorch, and the lines around it
    transformers   the loop over positions that runs where no kernel is installed
    fla            gated linear attention of flash-linear-attention: a head a channel, values of size 1

Sizes: B batch, L length, E d_inner, N d_state. Results are given back as `(B, L, E)`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

LOOPS = ("transformers", "reference")
LONGEST_LOOP = 20_000
"""Positions beyond which a loop over positions is not timed."""
KEEPS_STATES = ("mambapy", "transformers", "fla")
MOST_WRITTEN = {"cuda": 1e12, "cpu": 2e9}
"""Numbers beyond which the backward of transformers' loop is not timed: it writes `(B, L, E, N)` L times."""


class ScanInputs(NamedTuple):
    """Arguments of one scan with softplus, and what the output is multiplied by before the backward."""

    x: Tensor
    """`(B, L, E)`, as `delta`, `z` and `weight`."""
    delta: Tensor
    A: Tensor
    """`(E, N)`."""
    B: Tensor
    """`(B, L, N)`, as `C`."""
    C: Tensor
    D: Tensor
    """`(E,)`, as `delta_bias`."""
    z: Tensor
    delta_bias: Tensor
    weight: Tensor

    def arguments(self) -> tuple[Tensor, ...]:
        """All but the weight."""
        return self[:-1]


class Scan(NamedTuple):
    """What a contender runs."""

    forward: Callable[[], Tensor]
    """y, without gradients."""
    both: Callable[[], Tensor]
    """Forward and backward with the gradients of all arguments; returns that of x."""


def not_timed(name: str, part: str, inputs: ScanInputs) -> str | None:
    """Why a contender is not timed on inputs of this size; None if it is."""
    length = inputs.x.shape[1]
    if name in LOOPS and length > LONGEST_LOOP:
        return f"a loop over positions is not timed beyond {LONGEST_LOOP:,} of them"
    states = inputs.x.numel() * inputs.A.shape[1]
    if name in KEEPS_STATES and states >= 2**31:
        return f"it keeps the states of all positions, here {states:,} numbers"
    if name == "transformers" and part != "forward" and states * length > MOST_WRITTEN[inputs.x.device.type]:
        return "its backward writes a gradient of all states for every position, which takes minutes here"
    return None


def prepare(name: str, inputs: ScanInputs) -> Scan:
    """A peer on these inputs; copies into its layout are made here, outside of what is timed."""
    if name == "mamba_ssm":
        return _mamba_ssm(inputs)
    if name == "transformers":
        return _transformers(inputs)
    function = {"mambapy": _mambapy, "fla": _fla}[name]
    return by_autograd(function, inputs.arguments(), inputs.weight)


def by_autograd(function: Callable[..., Tensor], arguments: Sequence[Tensor], weight: Tensor) -> Scan:
    """Both parts of a differentiable function of the arguments, x first; results are left in its layout."""
    leaves = [tensor.detach().requires_grad_() for tensor in arguments]

    def forward() -> Tensor:
        with torch.no_grad():
            return function(*leaves)

    def both() -> Tensor:
        return torch.autograd.grad(function(*leaves), leaves, weight)[0]

    return Scan(forward, both)


def _mamba_ssm(inputs: ScanInputs) -> Scan:
    import selective_scan_cuda as kernel

    x, delta, z, B, C, weight = map(
        _time_last, (inputs.x, inputs.delta, inputs.z, inputs.B, inputs.C, inputs.weight)
    )
    B, C = B[:, None], C[:, None]  # one group
    A, D, bias = inputs.A, inputs.D, inputs.delta_bias

    def run() -> list[Tensor]:
        return kernel.fwd(x, delta, A, B, C, D, z, bias, True)  # ungated y, kept states, y

    def both() -> Tensor:
        ungated, states, _ = run()
        back = kernel.bwd(x, delta, A, B, C, D, z, bias, weight, states, ungated, None, True, False)
        return back[0].transpose(1, 2)

    return Scan(lambda: run()[2].transpose(1, 2), both)


def _transformers(inputs: ScanInputs) -> Scan:
    from transformers.models.mamba import modeling_mamba

    if not hasattr(modeling_mamba, "mamba_selective_scan"):
        raise RuntimeError(
            "this transformers keeps its loop inside the mixer; version 5 has it as a function"
        )
    loop = inspect.unwrap(modeling_mamba.mamba_selective_scan)  # not the kernel that it may stand for

    def function(x, delta, A, B, C, D, z, bias):
        return loop(x, delta, A, B, C, D=D, z=z, delta_bias=bias, delta_softplus=True).to(x.dtype)

    x, delta, A, B, C, D, z, bias = inputs.arguments()
    arguments = (_time_last(x), _time_last(delta), A, _time_last(B), _time_last(C), D, _time_last(z), bias)
    scan = by_autograd(function, arguments, _time_last(inputs.weight))
    return Scan(lambda: scan.forward().transpose(1, 2), lambda: scan.both().transpose(1, 2))


def _mambapy(x, delta, A, B, C, D, z, bias):
    from mambapy.pscan import pscan

    step = F.softplus(delta.float() + bias)
    decay = torch.exp(step[..., None] * A)
    states = pscan(decay, (step * x)[..., None] * B.float()[:, :, None])
    y = (states @ C.float()[..., None]).squeeze(-1) + D * x
    return (y * F.silu(z)).to(x.dtype)


def _fla(x, delta, A, B, C, D, z, bias):
    from fla.ops.gla import fused_recurrent_gla

    step = F.softplus(delta.float() + bias)
    keys, queries = (v.float()[:, :, None].expand(*x.shape, A.shape[1]).contiguous() for v in (B, C))
    values, gates = (step * x)[..., None], step[..., None] * A
    y, _ = fused_recurrent_gla(queries, keys, values, gates, scale=1.0)
    return ((y.squeeze(-1) + D * x) * F.silu(z)).to(x.dtype)


def _time_last(tensor: Tensor) -> Tensor:
    """`(B, L, ·)` as a contiguous `(B, ·, L)`."""
    return tensor.transpose(1, 2).contiguous()
