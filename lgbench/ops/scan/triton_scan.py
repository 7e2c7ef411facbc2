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
and how things are cut up depends on shapes and types alone: the same input gives the same bits. Offsets are
64 bit.

A lane has all states of its channel. With 16 states in bfloat16, where it was measured to be faster, lanes
share channels instead: in the backward (`lanes_backward`), and, with many channels, in the
forward, which needs no chunks then (`lanes`).

Source: recurrence of Gu and Dao, arXiv:2312.00752, Algorithm 2; chunks with carried states as in Blelloch
(1990), "Prefix sums and their applications"; the kernels are our own.
"""

import functools
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lgbench.ops.launch import launch
from lgbench.ops.scan.backward import adjoint_summary_kernel, backward_kernel
from lgbench.ops.scan.forward import BLOCK, carry_kernel, forward_kernel, padded_states
from lgbench.ops.scan.lanes import forward_lanes_kernel
from lgbench.ops.scan.lanes_backward import adjoint_summary_lanes_kernel, backward_lanes_kernel

# Programs of one warp that an H100 runs at once: 16 and 8 on each of its 132 multiprocessors, as registers
# allow. Constants, not read off the device, so that chunks, and every rounding, are the same anywhere.
FORWARD_PROGRAMS = 2112
BACKWARD_PROGRAMS = 1056
FORWARD_TILE_STATES = 64  # steps × states that a lane works on at once
BACKWARD_TILE_STATES = 32
SAVE_EVERY = 16  # steps between the states kept for the backward
CARRY_TILE = 256  # chunks carried over at once
LANES = 4  # that share channels where `share_lanes` says so
LANES_WARPS = 4  # of a program of the forward there
LANES_LEAST = 1024  # warps of that forward; with fewer, chunks of time serve better
LANES_TILE = 4  # steps at once of the summaries of the backward there


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


def share_lanes(states: int, *dtypes: torch.dtype) -> bool:
    """Whether lanes share channels: 16 states, where x, B and C are all bfloat16."""
    return states == 4 * LANES and all(dtype == torch.bfloat16 for dtype in dtypes)


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
    """Selective scan with gradients; arguments and meaning as of `selective_scan.selective_scan`.

    Args:
        x, delta, z: `(B, L, E)` float32, bfloat16 or float16 on one CUDA device; slices whose last stride is
            1 and whose sequences follow each other (a part of a projection's output) are read in place,
            others copied.
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
    tensors = (x, delta, A, B, C, D, z, h0, mask, delta_bias)
    if torch.is_grad_enabled() and any([t is not None and t.requires_grad for t in tensors]):
        return _SelectiveScan.apply(*tensors, softplus)
    y, state, _ = _forward(*_laid_out(*tensors), softplus, False)
    return y, state


class _SelectiveScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, delta, A, B, C, D, z, h0, mask, delta_bias, softplus):
        tensors = _laid_out(x, delta, A, B, C, D, z, h0, mask, delta_bias)
        y, state, saved = _forward(*tensors, softplus, True)
        x, delta, A, B, C, D, z, h0, mask, delta_bias = tensors
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
        return _backward(*ctx.saved_tensors, ctx.softplus, ctx.h0_dtype, grad_y, grad_state)


def _laid_out(x, delta, A, B, C, D, z, h0, mask, delta_bias):
    """The same tensors as the kernels read them."""
    x, delta, z, B, C = _rows(x), _rows(delta), _rows(z), _rows(B), _rows(C)
    if share_lanes(A.shape[1], x.dtype, B.dtype, C.dtype):
        B, C = _aligned(B), _aligned(C)
    A, D, h0, delta_bias = [None if t is None else t.contiguous() for t in (A, D, h0, delta_bias)]
    return x, delta, A, B, C, D, z, h0, mask, delta_bias


def _rows(t: Tensor | None) -> Tensor | None:
    """The same values with last stride 1 and one stride for `(batch, length)`, copied only where needed."""
    if t is None:
        return t
    batch, step, number = t.stride()
    if number == 1 and (t.shape[0] == 1 or batch == t.shape[1] * step):
        return t
    return t.contiguous()


def _forward(x, delta, A, B, C, D, z, h0, mask, delta_bias, softplus, need_grad):
    """y `(B, L, E)`, final state `(B, E, N)`, saved states `(B, ceil(L / SAVE_EVERY), N, E)` or None."""
    batch, length, channels = x.shape
    states = A.shape[1]
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    state = _f32(x, batch, channels, states)
    saved = _f32(x, batch, _cdiv(length, SAVE_EVERY), states, channels) if need_grad else None
    mask_stride = 0 if mask is None or mask.dim() == 1 else length
    traits = (x.device, need_grad, *_types(x, delta, z, B, C, A, D, delta_bias, mask, h0))
    programs = batch * _cdiv(channels * LANES, 32 * LANES_WARPS)
    if share_lanes(states, x.dtype, B.dtype, C.dtype) and programs * LANES_WARPS >= LANES_LEAST:
        # A multiprocessor holds 3 programs with 168 registers a thread, or 4 slower ones with 128.
        few = 4 * _cdiv(programs, 3 * 132) <= 5 * _cdiv(programs, 4 * 132)
        launch(
            forward_lanes_kernel, programs,
            (x, delta, z, y, B, C, A, D, delta_bias, mask, h0, state, saved), (length, mask_stride),
            (channels, states, LANES, LANES_WARPS, SAVE_EVERY // 2, *_strides(x, delta, z, B, C), softplus),
            LANES_WARPS, traits, 168 if few else 128,
        )  # fmt: skip
        return y, state, saved
    tile, chunk, num_chunks = plan(batch, length, channels, states, False)
    summary = _f32(x, batch, num_chunks, states + 1, channels) if num_chunks > 1 else state
    numbers = (length, chunk, num_chunks, mask_stride)
    shape = (channels, states, padded_states(states), BLOCK, tile, SAVE_EVERY)
    sizes = (*shape, *_strides(x, delta, z, B, C), softplus)
    programs = batch * _cdiv(channels, BLOCK)
    if num_chunks > 1:
        tensors = (x, delta, None, None, B, None, A, None, delta_bias, mask, None, None, summary, None)
        launch(forward_kernel, programs * (num_chunks - 1), tensors, numbers, (*sizes, False), traits=traits)
        _carry(summary, A, h0, False, traits)
    tensors = (x, delta, z, y, B, C, A, D, delta_bias, mask, h0, state, summary, saved)
    launch(forward_kernel, programs * num_chunks, tensors, numbers, (*sizes, True), traits=traits)
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
    xs, deltas, zs, grads, Bs, Cs = _strides(x, delta, z, grad_y, B, C)
    types = _types(x, delta, z, B, C, A, D, delta_bias, mask, grad_y, grad_state)
    traits = (x.device, h0_dtype is None, *types)
    shared = share_lanes(states, x.dtype, B.dtype, C.dtype)
    shape = (channels, states, LANES) if shared else (channels, states, padded, BLOCK)
    if num_chunks > 1:
        tensors = (delta, z, grad_y, C, A, delta_bias, mask, summary)
        numbers, strides = (length, chunk, num_chunks, mask_stride), (deltas, zs, grads, Cs)
        if shared:
            sizes = (*shape, LANES_TILE, *strides, softplus, length % LANES_TILE > 0)
            kernel, registers = adjoint_summary_lanes_kernel, 128
        else:
            kernel, sizes, registers = adjoint_summary_kernel, (*shape, tile, *strides, softplus), None
        launch(kernel, programs * (num_chunks - 1), tensors, numbers, sizes, 1, traits, registers)
        _carry(summary, A, grad_state, True, traits)
    dx, ddelta, dz = (
        None if t is None else torch.empty_like(t, memory_format=torch.contiguous_format)
        for t in (x, delta, z)
    )
    dBC = _f32(x, 2, blocks, batch, length, states)
    dh0 = None if h0_dtype is None else _f32(x, batch, channels, states)
    scratch = _f32(x, programs * num_chunks, SAVE_EVERY // tile * padded * BLOCK)
    tensors = (
        x, delta, z, grad_y, B, C, A, D, delta_bias, mask, saved, summary, grad_state, scratch,
        dx, ddelta, dz, dBC, small, dh0,
    )  # fmt: skip
    sizes = (*shape, tile, SAVE_EVERY, xs, deltas, zs, grads, Bs, Cs, softplus)
    launch(
        backward_lanes_kernel if shared else backward_kernel, programs * num_chunks, tensors,
        (length, chunk, num_chunks, batch, mask_stride), (*sizes, length % tile > 0) if shared else sizes,
        traits=traits,
    )  # fmt: skip
    dBC = dBC.view(2, batch, length, states) if blocks == 1 else dBC.sum(1)
    dB, dC = _as(dBC, B.dtype).unbind(0) if B.dtype == C.dtype else (dBC[0].to(B.dtype), dBC[1].to(C.dtype))
    dA, dD, dbias = small.sum(0).split([states * channels, channels, channels])
    return (
        dx, ddelta, _as(dA.view(channels, states), A.dtype), dB, dC,
        None if D is None else _as(dD, D.dtype), dz, None if dh0 is None else _as(dh0, h0_dtype), None,
        None if delta_bias is None else _as(dbias, delta_bias.dtype), None,
    )  # fmt: skip


def _cdiv(a: int, b: int) -> int:
    return -(-a // b)


def _f32(like: Tensor, *shape: int) -> Tensor:
    return like.new_empty(shape, dtype=torch.float32)


def _as(t: Tensor, dtype: torch.dtype) -> Tensor:
    return t if t.dtype == dtype else t.to(dtype)


def _aligned(t: Tensor) -> Tensor:
    """The same rows of B or C with each lane's 4 numbers aligned to their size, copied only where needed."""
    if t.data_ptr() % 16 == 0 and t.stride(1) % 4 == 0:
        return t
    return t.clone(memory_format=torch.contiguous_format)


def _strides(*tensors: Tensor | None) -> list[int]:
    """From one row to the next."""
    return [0 if t is None else t.stride(1) for t in tensors]


def _types(*tensors: Tensor | None) -> list[torch.dtype | None]:
    return [None if t is None else t.dtype for t in tensors]


def _carry(summary: Tensor, A: Tensor, outer: Tensor | None, reverse: bool, traits: tuple) -> None:
    """Turn the chunks' summaries into what leaves each of them, in place."""
    batch, num_chunks, rows, channels = summary.shape
    tile = min(1 << (num_chunks - 1).bit_length(), CARRY_TILE)
    columns = max(8, min(32, 2048 // tile))
    programs = _cdiv((rows - 1) * channels, columns) * batch
    sizes = (channels, rows - 1, tile, columns, reverse)
    launch(carry_kernel, programs, (summary, A, outer), (num_chunks,), sizes, 4, traits)
