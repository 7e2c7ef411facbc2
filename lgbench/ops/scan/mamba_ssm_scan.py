"""The selective scan by mamba-ssm's compiled CUDA kernel, with the initial and final states that it lacks.

The kernel starts from zero, and the last state that it returns carries no gradient. Since the recurrence is
linear in the state, both can be had around it, exactly. With S_t = Σ_{s≤t} Δ_s and R_t = Σ_{s>t} Δ_s:

    y_t(h0) = y_t(0) + Σ_n C_tn exp(A_n S_t) h0_n               before the gate
    h_L(h0) = h_L(0) + exp(A S_L) h0
    h_L(0)  = Σ_t exp(A R_t) (Δ_t x_t) B_t                      only evaluated for its gradient

The sums over `(B, L, E, N)` run in chunks of the length and are recomputed in the backward pass.

Sizes: B batch, L length, E d_inner, N d_state; the kernel wants `(B, E, L)` and `(B, N, L)`.
Source: mamba_ssm.ops.selective_scan_interface (github.com/state-spaces/mamba); the identities are our own.
"""

import functools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from lgbench.ops.scan import chunked as scan_torch

MAX_ELEMENTS = 2**31
MAX_STATE = 256
KERNEL_CHUNK = 2048  # positions between two states that the kernel keeps, each as two numbers
CHUNK_ELEMENTS = 2**24


def scan(
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    h0: Tensor | None = None,
    mask: Tensor | None = None,
    delta_bias: Tensor | None = None,
    softplus: bool = False,
) -> tuple[Tensor, Tensor]:
    """The scan by the compiled kernel; arguments and meaning as in `selective_scan`.

    A mask or an initial state costs memory traffic: Δ is then computed outside the kernel in float32, and all
    inputs go in as float32, so that Δ is not rounded to a narrower type.

    Returns:
        y `(B, L, E)` in the type of `x` and the last state `(B, E, N)` float32, with gradients.

    Raises:
        ValueError: more elements than the kernel's 32-bit offsets reach, or d_state above 256.
    """
    if x.numel() == 0:
        return scan_torch.scan(x, delta, A, B, C, D, z, h0, mask, delta_bias, softplus)
    _refuse_what_the_kernel_gets_wrong(x, A)
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    A, D, delta_bias = (None if v is None else v.float().contiguous() for v in (A, D, delta_bias))
    if mask is not None or h0 is not None:
        delta, delta_bias, softplus = _step(delta, delta_bias, softplus, mask), None, False
    gate = z if h0 is None else None
    inputs = (x, delta, B, C) if gate is None else (x, delta, B, C, gate)
    dtype = functools.reduce(torch.promote_types, (v.dtype for v in inputs))
    u, dt, b, c, *gates = (v.to(dtype).transpose(1, 2) for v in inputs)
    y, last = selective_scan_fn(
        u, dt, A, b, c, D, *(gates or [None]), delta_bias, softplus, return_last_state=True
    )
    y = y.transpose(1, 2)
    state = _LastState.apply(last.detach(), x, delta, delta_bias, softplus, A, B)
    if h0 is not None:
        h0 = h0.float()
        elapsed = delta.cumsum(1)
        y = y + torch.cat(_in_chunks(_answer, A, h0, over=(elapsed, C)), 1)
        state = state + torch.exp(elapsed[:, -1, :, None] * A) * h0
        y = y if z is None else y * F.silu(z.float())
    return y.to(x.dtype), state


class _LastState(torch.autograd.Function):
    """The kernel's last state with the gradient that it lacks; costs nothing where nobody asks for that."""

    @staticmethod
    def forward(ctx, last, x, delta, delta_bias, softplus, A, B):
        ctx.save_for_backward(x, delta, delta_bias, A, B)
        ctx.softplus = softplus
        return last.view_as(last)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        with torch.enable_grad():
            inputs = [None if v is None else v.detach().requires_grad_() for v in ctx.saved_tensors]
            x, delta, delta_bias, A, B = inputs
            step = _step(delta, delta_bias, ctx.softplus, None)
            remaining = F.pad(step[:, 1:], (0, 0, 0, 1)).flip(1).cumsum(1).flip(1)
            state = sum(_in_chunks(_contribution, A, over=(remaining, step * x.float(), B)))
        given = [v for v in inputs if v is not None]
        grads = iter(torch.autograd.grad(state, given, g))
        dx, ddelta, dbias, dA, dB = (None if v is None else next(grads) for v in inputs)
        return None, dx, ddelta, dbias, None, dA, dB


def _step(delta: Tensor, delta_bias: Tensor | None, softplus: bool, mask: Tensor | None) -> Tensor:
    """Δ `(B, L, E)` in float32."""
    step = delta.float() if delta_bias is None else delta.float() + delta_bias
    step = F.softplus(step) if softplus else step
    return step if mask is None else step.masked_fill(~mask.expand(step.shape[:2])[..., None], 0.0)


def _answer(A: Tensor, h0: Tensor, elapsed: Tensor, C: Tensor) -> Tensor:
    """What h0 `(B, E, N)` adds to the outputs `(B, l, E)` of a chunk."""
    return (torch.exp(elapsed[..., None] * A) * h0[:, None] * C.float()[:, :, None]).sum(-1)


def _contribution(A: Tensor, remaining: Tensor, inputs: Tensor, B: Tensor) -> Tensor:
    """What a chunk adds to the last state `(B, E, N)`."""
    return (torch.exp(remaining[..., None] * A) * inputs[..., None] * B.float()[:, :, None]).sum(1)


def _in_chunks(
    function: Callable[..., Tensor], A: Tensor, *whole: Tensor, over: tuple[Tensor, ...]
) -> list[Tensor]:
    """Apply a function along the length of some tensors without ever keeping a whole `(B, L, E, N)`."""
    batch, _, channels = over[0].shape
    size = max(1, CHUNK_ELEMENTS // (batch * channels * A.shape[1]))
    pieces = zip(*(v.split(size, 1) for v in over), strict=True)
    return [
        checkpoint(function, A, *whole, *p, use_reentrant=False, preserve_rng_state=False) for p in pieces
    ]


def _refuse_what_the_kernel_gets_wrong(x: Tensor, A: Tensor) -> None:
    """Keep clear of the kernel's 32-bit offsets (state-spaces/mamba #880 and #884) and of its limit to N."""
    (batch, length, channels), d_state = x.shape, A.shape[1]
    if d_state > MAX_STATE:
        raise ValueError(
            f"mamba_ssm's kernel takes d_state up to {MAX_STATE}, got {d_state}; use backend='triton'"
        )
    kept = batch * channels * math.ceil(length / KERNEL_CHUNK) * 2 * d_state
    largest = max(batch * length * channels, batch * length * d_state, kept)
    if largest >= MAX_ELEMENTS:
        raise ValueError(
            f"mamba_ssm's kernel has 32-bit offsets: batch {batch}, length {length}, d_inner {channels} and "
            f"d_state {d_state} make {largest:,} elements in one tensor; above {MAX_ELEMENTS - 1:,} it gives "
            "wrong results and no error; split the batch or the length, or use backend='triton'"
        )
