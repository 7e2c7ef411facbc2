"""Selective scan on CUDA, in Triton: one long sequence fills the chip as well as a large batch does.

    h_t = exp(Δ_t A) ∘ h_{t-1} + (Δ_t x_t) ⊗ B_t,    y_t = (h_t C_t + D ∘ x_t) ∘ SiLU(z_t)

Sizes: B batch, L length, E d_inner, N d_state. A program owns a block of channels with all their states and
walks through one chunk of time, a tile of a few steps at once. Where batch and channels alone leave the chip
idle, time is cut into chunks and there are three passes:

1. *summary*: the state that each chunk ends with when it starts from zero, and ΣΔ. The decay of a whole chunk
   is exp(A ΣΔ), so a chunk is summed up in E·(N+1) numbers;
2. *carry*: an associative scan over the summaries gives every chunk its true starting state;
3. *finish*: every chunk runs again from there and writes its outputs.

The backward is the same three passes in reversed time, on the adjoint of the state. The forward leaves every
`SAVE_EVERY`-th state; the backward recomputes the others. All sums have a fixed order, there are no atomics,
and the number of chunks depends on the shapes alone: the same input gives the same bits. Offsets are 64 bit.

Source: recurrence of Gu and Dao, arXiv:2312.00752, Algorithm 2; chunks with carried states as in Blelloch
(1990), "Prefix sums and their applications"; the kernels are our own.
"""

import functools
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lgbench.ops.scan_triton_backward import adjoint_summary_kernel, backward_kernel
from lgbench.ops.scan_triton_forward import BLOCK, carry_kernel, forward_kernel, padded_states

# Programs of one warp that an H100 runs at once: 16 and 8 on each of its 132 multiprocessors, as registers
# allow. Constants, not read off the device, so that chunks, and every rounding, are the same anywhere.
FORWARD_PROGRAMS = 2112
BACKWARD_PROGRAMS = 1056
FORWARD_TILE_STATES = 64  # steps × states that a lane works on at once
BACKWARD_TILE_STATES = 32
SAVE_EVERY = 16  # steps between the states kept for the backward
CARRY_TILE = 256  # chunks carried over at once

_COMPILED = {}


class Plan(NamedTuple):
    """How one direction is cut up: `tile` steps at once, `num_chunks` chunks of `chunk` steps."""

    tile: int
    chunk: int
    num_chunks: int


@functools.cache
def plan(batch: int, length: int, channels: int, states: int, backward: bool) -> Plan:
    """Choose tile and chunk from the shapes alone.

    Args:
        batch, length, channels, states: B, L, E, N; all at least 1.
        backward: whether it is for the backward.

    Returns:
        a plan whose chunks cover the length; all but the last are full, and multiples of `SAVE_EVERY`.
    """
    at_once = BACKWARD_PROGRAMS if backward else FORWARD_PROGRAMS
    padded = padded_states(states)
    tile = max(BACKWARD_TILE_STATES if backward else FORWARD_TILE_STATES, 32) // padded
    programs = batch * _cdiv(channels, BLOCK)
    once, twice = at_once // programs, 2 * at_once // programs
    # A second round of programs pays where the first would leave many places empty, as 2 x 384 of 1056 would.
    wanted = twice if twice > 2.3 * once > 0 else max(1, once)
    steps = max(_cdiv(length, wanted), 2 * SAVE_EVERY)
    chunk = _cdiv(steps, SAVE_EVERY) * SAVE_EVERY
    return Plan(tile, chunk, _cdiv(length, chunk))


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
    """Selective scan with gradients; arguments and meaning as `lgbench.ops.selective_scan.selective_scan`.

    Args:
        x, delta, z: `(B, L, E)` float32, bfloat16 or float16 on one CUDA device; slices whose last stride is
        1 and
            whose sequences follow each other (a part of a projection's output) are read in place, others
            copied.
        A: `(E, N)` float32. B, C: `(B, L, N)`. D, delta_bias: `(E,)`. h0: `(B, E, N)`.
        mask: `(L,)` or `(B, L)` bool, True for real tokens.

    Returns:
        y `(B, L, E)` in the type of x and the final state `(B, E, N)` float32. Both carry gradients.

    Raises:
        ValueError: float64 input, or more than 32 states a channel; the torch back end takes both.
    """
    if x.dtype == torch.float64:
        raise ValueError(
            "the triton scan computes in float32, got float64; use backend='torch' or 'reference'"
        )
    if A.shape[1] > 32:
        raise ValueError(
            f"the triton scan holds at most 32 states a channel, got {A.shape[1]}; use backend='torch'"
        )
    batch, length, channels = x.shape
    if batch == 0 or length == 0 or channels == 0:
        state = x.new_zeros(batch, channels, A.shape[1], dtype=torch.float32) if h0 is None else h0.float()
        return x.clone(), state
    if mask is not None:
        mask = mask.to(torch.uint8).contiguous()
    return _SelectiveScan.apply(x, delta, A, B, C, D, z, h0, mask, delta_bias, softplus)


class _SelectiveScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, delta, A, B, C, D, z, h0, mask, delta_bias, softplus):
        x, delta, z, B, C = (_rows(t) for t in (x, delta, z, B, C))
        A, D, h0, delta_bias = (None if t is None else t.contiguous() for t in (A, D, h0, delta_bias))
        with torch.cuda.device_of(x):
            y, state, saved = _forward(
                x, delta, A, B, C, D, z, h0, mask, delta_bias, softplus, any(ctx.needs_input_grad)
            )
        ctx.save_for_backward(x, delta, A, B, C, D, z, mask, delta_bias, saved)
        ctx.softplus, ctx.h0_dtype = softplus, None if h0 is None else h0.dtype
        ctx.set_materialize_grads(False)
        return y, state

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_y, grad_state):
        x = ctx.saved_tensors[0]
        grad_y = torch.zeros_like(x) if grad_y is None else _rows(grad_y)
        grad_state = None if grad_state is None else grad_state.contiguous()
        with torch.cuda.device_of(x):
            return _backward(*ctx.saved_tensors, ctx.softplus, ctx.h0_dtype, grad_y, grad_state)


def _rows(t: Tensor | None) -> Tensor | None:
    """The same values with last stride 1 and one stride for `(batch, length)`, copied only where needed."""
    if t is None or (t.stride(2) == 1 and (t.shape[0] == 1 or t.stride(0) == t.shape[1] * t.stride(1))):
        return t
    return t.contiguous()


def _forward(x, delta, A, B, C, D, z, h0, mask, delta_bias, softplus, need_grad):
    """y `(B, L, E)`, final state `(B, E, N)`, saved states `(B, ceil(L / SAVE_EVERY), N, E)` or None."""
    batch, length, channels = x.shape
    states = A.shape[1]
    tile, chunk, num_chunks = plan(batch, length, channels, states, False)
    y = x.new_empty(x.shape)
    state = _f32(x, batch, channels, states)
    saved = _f32(x, batch, _cdiv(length, SAVE_EVERY), states, channels) if need_grad else None
    summary = _f32(x, batch, num_chunks, states + 1, channels) if num_chunks > 1 else state
    numbers = (length, chunk, num_chunks, 0 if mask is None or mask.dim() == 1 else length)
    sizes = (
        channels, states, padded_states(states), BLOCK, tile, SAVE_EVERY, x.stride(1), delta.stride(1),
        0 if z is None else z.stride(1), B.stride(1), C.stride(1), softplus,
    )  # fmt: skip
    programs = batch * _cdiv(channels, BLOCK)
    if num_chunks > 1:
        tensors = (x, delta, None, None, B, None, A, None, delta_bias, mask, None, None, summary, None)
        _launch(forward_kernel, programs * (num_chunks - 1), tensors, numbers, (*sizes, False))
        _carry(summary, A, h0, reverse=False)
    tensors = (x, delta, z, y, B, C, A, D, delta_bias, mask, h0, state, summary, saved)
    _launch(forward_kernel, programs * num_chunks, tensors, numbers, (*sizes, True))
    return y, state, saved


def _backward(x, delta, A, B, C, D, z, mask, delta_bias, saved, softplus, h0_dtype, grad_y, grad_state):
    """Gradients of all arguments of `_SelectiveScan.forward`, in their order."""
    batch, length, channels = x.shape
    states = A.shape[1]
    tile, chunk, num_chunks = plan(batch, length, channels, states, True)
    blocks, padded = _cdiv(channels, BLOCK), padded_states(states)
    programs = batch * blocks
    small = _f32(x, batch * num_chunks, (states + 2) * channels)
    summary = _f32(x, batch, num_chunks, states + 1, channels) if num_chunks > 1 else small
    mask_stride = 0 if mask is None or mask.dim() == 1 else length
    z_stride = 0 if z is None else z.stride(1)
    shape = (channels, states, padded, BLOCK, tile)
    if num_chunks > 1:
        _launch(
            adjoint_summary_kernel, programs * (num_chunks - 1),
            (delta, z, grad_y, C, A, delta_bias, mask, summary), (length, chunk, num_chunks, mask_stride),
            (*shape, delta.stride(1), z_stride, grad_y.stride(1), C.stride(1), softplus),
        )  # fmt: skip
        _carry(summary, A, grad_state, reverse=True)
    dx, ddelta, dz = (None if t is None else t.new_empty(t.shape) for t in (x, delta, z))
    dBC = _f32(x, 2, blocks, batch, length, states)
    dh0 = None if h0_dtype is None else _f32(x, batch, channels, states)
    scratch = _f32(x, programs * num_chunks, SAVE_EVERY // tile * padded * BLOCK)
    _launch(
        backward_kernel, programs * num_chunks,
        (x, delta, z, grad_y, B, C, A, D, delta_bias, mask, saved, summary, grad_state, scratch,
         dx, ddelta, dz, dBC, small, dh0),
        (length, chunk, num_chunks, batch, mask_stride),
        (*shape, SAVE_EVERY, x.stride(1), delta.stride(1), z_stride, grad_y.stride(1), B.stride(1),
        C.stride(1), softplus),
    )  # fmt: skip
    dB, dC = dBC[:, 0] if blocks == 1 else dBC.sum(1)
    dA, dD, dbias = small.sum(0).split([states * channels, channels, channels])
    return (
        dx, ddelta, dA.view(channels, states).to(A.dtype), dB.to(B.dtype), dC.to(C.dtype),
        None if D is None else dD.to(D.dtype), dz, None if dh0 is None else dh0.to(h0_dtype), None,
        None if delta_bias is None else dbias.to(delta_bias.dtype), None,
    )  # fmt: skip


def _cdiv(a: int, b: int) -> int:
    return -(-a // b)


def _f32(like: Tensor, *shape: int) -> Tensor:
    return like.new_empty(shape, dtype=torch.float32)


def _carry(summary: Tensor, A: Tensor, outer: Tensor | None, reverse: bool) -> None:
    """Turn the chunks' summaries into what leaves each of them, in place."""
    batch, num_chunks, rows, channels = summary.shape
    tile = min(1 << (num_chunks - 1).bit_length(), CARRY_TILE)
    columns = max(8, min(32, 2048 // tile))
    programs = _cdiv((rows - 1) * channels, columns) * batch
    sizes = (channels, rows - 1, tile, columns, reverse)
    _launch(carry_kernel, programs, (summary, A, outer), (num_chunks,), sizes, num_warps=4)


def _launch(kernel, programs, tensors, numbers, sizes, num_warps=1) -> None:
    """Run a kernel; from the second time on without Triton's look-up of it, which takes longer than the run.

    Args:
        tensors, numbers, sizes: its arguments in order: pointers or None, integers, compile-time constants.
    """
    types = tuple(None if t is None else t.dtype for t in tensors)
    key = (kernel.__name__, tensors[0].device, types, sizes)
    compiled = _COMPILED.get(key)
    if compiled is None:
        _COMPILED[key] = kernel[(programs,)](*tensors, *numbers, *sizes, num_warps=num_warps)
    else:
        pointers = [None if t is None else t.data_ptr() for t in tensors]  # Triton looks up a tensor's slowly
        compiled[(programs, 1, 1)](*pointers, *numbers, *sizes)
