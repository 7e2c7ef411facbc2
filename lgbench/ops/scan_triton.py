"""Selective scan on CUDA, in Triton: one long sequence fills the chip as well as a large batch does.

    h_t = exp(Δ_t A) ∘ h_{t-1} + (Δ_t x_t) ⊗ B_t,    y_t = (h_t C_t + D ∘ x_t) ∘ SiLU(z_t)

Sizes: B batch, L length, E d_inner, N d_state. A program owns a block of channels with all their states and walks
through one chunk of time, a tile of a few steps at once. Where batch and channels alone leave the chip idle, time is
cut into chunks and there are three passes:

1. *summary*: the state that each chunk ends with when it starts from zero, and ΣΔ. The decay of a whole chunk is
   exp(A ΣΔ), so a chunk is summed up in E·(N+1) numbers;
2. *carry*: an associative scan over the summaries gives every chunk its true starting state;
3. *finish*: every chunk runs again from there and writes its outputs.

The backward is the same three passes in reversed time, on the adjoint of the state. The forward leaves the state at
every `save_every`-th step; the backward recomputes the others. All sums have a fixed order, there are no atomics, and
the number of chunks depends on the shapes alone: the same input gives the same bits. Offsets are 64 bit.

Source: recurrence of Gu and Dao, arXiv:2312.00752, Algorithm 2; chunks with carried states as in Blelloch (1990),
"Prefix sums and their applications"; the kernels are our own.
"""

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from lgbench.ops import scan_triton_kernels as kernels

BLOCK = 32
# Programs of one warp that keep an H100 (132 multiprocessors) busy. A constant, not the device's count, so that the
# split into chunks, and with it every rounding, is the same on every card.
FORWARD_PROGRAMS = 1024
BACKWARD_PROGRAMS = 1024
FORWARD_TILE = 8
BACKWARD_TILE = 4
BACKWARD_REGISTERS = None
FORWARD_REGISTERS = None
SAVE_EVERY = 16
WIDEN = True
CARRY_TILE = 256


class Plan(NamedTuple):
    """How one pass is cut up: `block` channels per program, `tile` steps at once, `chunk` steps per program."""

    block: int
    tile: int
    num_warps: int
    chunk: int
    num_chunks: int


def plan(batch: int, length: int, channels: int, states: int, backward: bool, save_every: int) -> Plan:
    """Choose block, tile and chunk sizes from the shapes alone.

    Args:
        batch, length, channels, states: B, L, E, N; all at least 1.
        backward: the backward keeps all states of a tile, so its tiles are shorter.
        save_every: steps between saved states; chunks are multiples of it.

    Returns:
        a plan whose `num_chunks` chunks of `chunk` steps cover the length.
    """
    padded = kernels.padded_states(states)
    tile = max(BACKWARD_TILE, 32 // padded) if backward else FORWARD_TILE
    programs = batch * triton.cdiv(channels, BLOCK)
    wanted = max(1, (BACKWARD_PROGRAMS if backward else FORWARD_PROGRAMS) // programs)
    steps = max(triton.cdiv(length, wanted), 2 * save_every)
    chunk = triton.cdiv(steps, save_every) * save_every
    return Plan(BLOCK, tile, 1, chunk, triton.cdiv(length, chunk))


def save_interval(states: int) -> int:
    """Steps between the states that the forward saves for the backward."""
    return SAVE_EVERY


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
        x, delta, z: `(B, L, E)` float32, bfloat16 or float16 on one CUDA device; slices whose last stride is 1 and
            whose sequences follow each other (a part of a projection's output) are read in place, others copied.
        A: `(E, N)` float32. B, C: `(B, L, N)`. D, delta_bias: `(E,)`. h0: `(B, E, N)`.
        mask: `(L,)` or `(B, L)` bool, True for real tokens.

    Returns:
        y `(B, L, E)` in the type of x and the final state `(B, E, N)` float32. Both carry gradients.

    Raises:
        ValueError: float64 input, which the reference and torch back ends take.
    """
    if x.dtype == torch.float64:
        raise ValueError(
            "the triton scan computes in float32, got float64; use backend='torch' or 'reference'"
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
        ctx.states_dtype = B.dtype, C.dtype
        x, delta, z, B, C = (_rows(t) for t in (x, delta, z, B, C))
        if WIDEN:
            B, C = B.float(), C.float()
        A, D, delta_bias = (None if t is None else t.contiguous() for t in (A, D, delta_bias))
        need_grad = any(ctx.needs_input_grad)
        y, state, saved = _forward(x, delta, A, B, C, D, z, h0, mask, delta_bias, softplus, need_grad)
        ctx.save_for_backward(x, delta, A, B, C, D, z, mask, delta_bias, saved)
        ctx.softplus, ctx.h0_dtype = softplus, None if h0 is None else h0.dtype
        ctx.set_materialize_grads(False)
        return y, state

    @staticmethod
    def backward(ctx, grad_y, grad_state):
        x, delta, A, B, C, D, z, mask, delta_bias, saved = ctx.saved_tensors
        grad_y = torch.zeros_like(x) if grad_y is None else _rows(grad_y)
        grads = _backward(
            x, delta, A, B, C, D, z, mask, delta_bias, saved, ctx.softplus, ctx.h0_dtype, grad_y, grad_state
        )
        dx, ddelta, dA, dB, dC, *rest = grads
        return dx, ddelta, dA, dB.to(ctx.states_dtype[0]), dC.to(ctx.states_dtype[1]), *rest


def _rows(t: Tensor | None) -> Tensor | None:
    """The same values with last stride 1 and `(batch, length)` in one regular stride, copied only where needed."""
    if t is None or (t.stride(2) == 1 and (t.shape[0] == 1 or t.stride(0) == t.shape[1] * t.stride(1))):
        return t
    return t.contiguous()


def _forward(x, delta, A, B, C, D, z, h0, mask, delta_bias, softplus, need_grad):
    """y `(B, L, E)`, final state `(B, E, N)` float32, saved states `(B, ceil(L/save_every), N, E)` or None."""
    batch, length, channels = x.shape
    states = A.shape[1]
    save_every = save_interval(states)
    p = plan(batch, length, channels, states, False, save_every)
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    state = x.new_empty(batch, channels, states, dtype=torch.float32)
    saved = _f32(x, batch, triton.cdiv(length, save_every), states, channels) if need_grad else None
    start = None if h0 is None else h0.transpose(1, 2).float().contiguous()
    sizes = dict(
        E=channels, N=states, NP=kernels.padded_states(states), BLOCK=p.block, TILE=p.tile, SAVE=save_every,
        XS=x.stride(1), DS=delta.stride(1), ZS=0 if z is None else z.stride(1), BS=B.stride(1), CS=C.stride(1),
        SOFTPLUS=softplus, num_warps=p.num_warps, maxnreg=FORWARD_REGISTERS,
    )  # fmt: skip
    mask_stride = 0 if mask is None or mask.dim() == 1 else length
    blocks = triton.cdiv(channels, p.block)
    if p.num_chunks > 1:
        local, decay = _f32(x, batch, p.num_chunks, states, channels), _f32(x, batch, p.num_chunks, channels)
        kernels.forward_kernel[(blocks * (p.num_chunks - 1) * batch,)](
            x, delta, None, None, B, C, A, None, delta_bias, mask, None, None, local, decay, None,
            length, p.chunk, p.num_chunks - 1, p.num_chunks, mask_stride, SUMMARY=True, **sizes,
        )  # fmt: skip
        start = _carry(local, decay, A, start, reverse=False)
    kernels.forward_kernel[(blocks * p.num_chunks * batch,)](
        x, delta, z, y, B, C, A, D, delta_bias, mask, start, state, None, None, saved,
        length, p.chunk, p.num_chunks, p.num_chunks, mask_stride, SUMMARY=False, **sizes,
    )  # fmt: skip
    return y, state, saved


def _backward(x, delta, A, B, C, D, z, mask, delta_bias, saved, softplus, h0_dtype, grad_y, grad_state):
    """Gradients of all arguments of `_SelectiveScan.forward`, in their order."""
    batch, length, channels = x.shape
    states = A.shape[1]
    save_every = save_interval(states)
    p = plan(batch, length, channels, states, True, save_every)
    blocks, padded = triton.cdiv(channels, p.block), kernels.padded_states(states)
    sizes = dict(
        E=channels, N=states, NP=padded, BLOCK=p.block, TILE=p.tile,
        XS=x.stride(1), DS=delta.stride(1), ZS=0 if z is None else z.stride(1), BS=B.stride(1), CS=C.stride(1),
        GS=grad_y.stride(1), SOFTPLUS=softplus, num_warps=p.num_warps,
    )  # fmt: skip
    mask_stride = 0 if mask is None or mask.dim() == 1 else length
    end = None if grad_state is None else grad_state.transpose(1, 2).float().contiguous()
    if p.num_chunks > 1:
        local, decay = _f32(x, batch, p.num_chunks, states, channels), _f32(x, batch, p.num_chunks, channels)
        kernels.adjoint_summary_kernel[(blocks * (p.num_chunks - 1) * batch,)](
            delta, z, grad_y, C, A, delta_bias, mask, local, decay,
            length, p.chunk, p.num_chunks, mask_stride,
            **{name: size for name, size in sizes.items() if name not in ("XS", "BS")},
        )  # fmt: skip
        end = _carry(local, decay, A, end, reverse=True)
    dx, ddelta = (torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in (x, delta))
    dz = None if z is None else torch.empty(z.shape, dtype=z.dtype, device=z.device)
    dB, dC = (_f32(x, blocks, batch, length, states) for _ in range(2))
    small = _f32(x, batch * p.num_chunks, states + 2, channels)
    dh0 = None if h0_dtype is None else _f32(x, batch, states, channels)
    programs = blocks * p.num_chunks * batch
    scratch = None
    if save_every > p.tile:
        scratch = _f32(x, programs, save_every // p.tile, padded, p.block)
    kernels.backward_kernel[(programs,)](
        x, delta, z, grad_y, B, C, A, D, delta_bias, mask, saved, end, scratch, dx, ddelta, dz, dB, dC, small, dh0,
        length, p.chunk, p.num_chunks, batch, mask_stride, SAVE=save_every, **sizes, maxnreg=BACKWARD_REGISTERS,
    )  # fmt: skip
    small = small.sum(0)
    return (
        dx, ddelta, small[:states].t().to(A.dtype), _total(dB), _total(dC),
        None if D is None else small[states].to(D.dtype), dz,
        None if dh0 is None else dh0.transpose(1, 2).to(h0_dtype), None,
        None if delta_bias is None else small[states + 1].to(delta_bias.dtype), None,
    )  # fmt: skip


def _total(parts: Tensor) -> Tensor:
    """The sum over blocks of channels."""
    return parts[0] if len(parts) == 1 else parts.sum(0)


def _f32(like: Tensor, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device=like.device)


def _carry(local: Tensor, decay: Tensor, A: Tensor, first: Tensor | None, reverse: bool) -> Tensor:
    """The state that enters each chunk, `(B, num_chunks, N, E)`, from the chunks' summaries.

    Args:
        local: `(B, num_chunks, N, E)`, what each chunk adds; the last one in scan order is not read.
        decay: `(B, num_chunks, E)`, ΣΔ of each chunk.
        first: `(B, N, E)` what enters the first chunk in scan order, None for zero.
        reverse: scan from the last chunk to the first.
    """
    batch, num_chunks, states, channels = local.shape
    tile = min(triton.next_power_of_2(num_chunks), CARRY_TILE)
    columns = max(8, min(32, 2048 // tile))
    carried = torch.empty_like(local)
    grid = (triton.cdiv(states * channels, columns) * batch,)
    kernels.carry_kernel[grid](
        local, decay, A, first, carried, num_chunks,
        E=channels, N=states, TILE=tile, COLUMNS=columns, REVERSE=reverse, num_warps=4,
    )  # fmt: skip
    return carried
