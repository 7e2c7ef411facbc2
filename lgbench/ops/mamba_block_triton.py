"""The fused Mamba block on CUDA, in Triton: projected once, then scanned in pieces that fill the chip.

A sequence is cut into chunks, and these into tiles of `T` tokens. A warp takes a chunk, a program `W`.

    forward    prepare          per token a row: a, Δ, B, C, τ, z
               chunk_ends       state at the end of each chunk, started from zero, and ΣΔ of the chunk
               carry            start of each chunk = exp(A ΣΔ) · start of the one before + its end
               outputs          scan from the true start, gate, projection back, residual
    backward   chunk_adjoints   adjoint of each chunk's start, with nothing coming from later chunks
               carry            the same recurrence, from the last chunk to the first
               gradients        gradient of the tokens; of each weight, one partial sum per program
               add_rows         the sum of the partial sums

States are never written per token: the one at the start of each tile is kept for the backward, the others are
computed again. Partial sums are added in a fixed order, without atomics: a result repeats bit for bit.

Sizes: B batch, L length, DM d_model, E d_inner, N d_state, R dt_rank; Q = min(N, 4). The kernels are in
`mamba_block_forward` and `mamba_block_backward`, what they share in `mamba_block_tiles`.
Source: our own; the recurrence is that of Gu and Dao, arXiv:2312.00752.
"""

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from lgbench.ops.mamba_block_backward import add_rows, chunk_adjoints, gradients
from lgbench.ops.mamba_block_forward import carry, chunk_ends, outputs, prepare


class Weights(NamedTuple):
    """The weights of a block, contiguous, in the order of the kernels and of a row of partial sums."""

    norm_weight: Tensor
    in_proj: Tensor
    x_proj: Tensor
    dt_weight: Tensor
    dt_bias: Tensor
    A_log: Tensor
    D: Tensor
    out_proj: Tensor


class Plan(NamedTuple):
    """How a batch is cut up, and the most registers of a thread in each kernel."""

    tile: int
    """Tokens of a chunk in one tile."""
    num_tiles: int
    """Tiles in a chunk."""
    num_chunks: int
    """Chunks in a sequence."""
    total_chunks: int
    """Chunks in the batch."""
    warps: int
    """Chunks, and warps, in one program of `gradients`: as many as have 16 tokens at a time. 1 elsewhere."""
    registers_scan: int
    """In `chunk_ends` and `chunk_adjoints`."""
    registers_prepare: int
    registers_outputs: int
    registers_gradients: int


def plan(batch: int, length: int, states: int) -> Plan:
    """Cut a batch so that one chunk a warp fills the chip once: 16 warps on each of 132 processors.

    Short batches get chunks of at least 4 tiles. The longer the chunks, the coarser the choice, so that few
    kernels need compiling. `states` is d_inner times d_state; more than 256 leave room for only half as many
    tokens in a tile.
    """
    small = states <= 256
    tile, num_tiles = 4 if small else 2, 4
    while num_tiles * tile < length and batch * triton.cdiv(length, num_tiles * tile) > 16 * 132:
        num_tiles += 1 if num_tiles < 8 else 2 if num_tiles < 16 else num_tiles // 4
    num_chunks = triton.cdiv(length, num_tiles * tile)
    registers = (64, 64, 128, 255) if small else (128, 128, 255, 255)
    return Plan(tile, num_tiles, num_chunks, batch * num_chunks, 16 // tile, *registers)


class Tape(NamedTuple):
    """What `forward` leaves for `backward`."""

    packed: Tensor
    """W_out and the part of W_x for B and C, each `[K / Q, E, Q]`."""
    rows: Tensor
    """Per token: a, Δ, B, C, τ, z; `(B * L, 3 E + 2 N + 4)`."""
    sums: Tensor
    """ΣΔ of each chunk, `(chunks, E)`."""
    tile_starts: Tensor
    """States at the start of each tile, `(tiles, N / Q, E, Q)`; empty if no backward follows."""


def forward(
    tokens: Tensor, weights: Weights, eps: float, h0: Tensor | None, mask: Tensor | None, keep: bool
) -> tuple[Tensor, Tensor, Tape]:
    """Run the block.

    Args:
        tokens: `(B, L, DM)` float32, contiguous, not empty.
        weights: float32, contiguous.
        eps: of the norm.
        h0: `(B, E, N)` contiguous, or None for zero.
        mask: bool `(L,)` or `(B, L)`, contiguous, True for a real token; None if all are.
        keep: whether a backward follows.

    Returns:
        new tokens `(B, L, DM)`; last state `(B, E, N)`; the tape.
    """
    batch, length, d_model = tokens.shape
    d_inner, d_state = weights.A_log.shape
    w, new = weights, tokens.new_empty
    cut = plan(batch, length, d_inner * d_state)
    sizes, places = _sizes(w), (length, cut.num_chunks, cut.total_chunks)
    tape = Tape(
        new(d_inner * (d_model + 2 * d_state)),
        new(batch * length, 3 * d_inner + 2 * d_state + 4),
        new(cut.total_chunks, d_inner),
        new(cut.total_chunks * cut.num_tiles if keep else 0, d_inner * d_state),
    )
    states = new(cut.total_chunks, d_inner * d_state)
    last, out = new(batch, d_inner, d_state), torch.empty_like(tokens)
    flags = tokens if mask is None else mask.view(torch.uint8)
    prepare[(triton.cdiv(batch * length, 32),)](
        tokens, tape.rows, tape.packed,
        w.norm_weight, w.in_proj, w.x_proj, w.dt_weight, w.dt_bias, w.out_proj, flags, eps,
        length, batch * length, length if flags.shape == (batch, length) else 0,
        **sizes, Q=min(4, d_state), M=32, HAS_MASK=mask is not None, num_warps=4, num_stages=1,
        maxnreg=cut.registers_prepare,
    )  # fmt: skip
    grid, shape = _launch(w, cut, 1)
    chunk_ends[grid](
        tape.rows, states, tape.sums, w.A_log, *places, **sizes, **shape, maxnreg=cut.registers_scan
    )
    _carry_over(states, tape.sums, w.A_log, h0, last, reverse=False)
    outputs[grid](
        tokens, tape.rows, out, states, tape.tile_starts, w.A_log, w.D, w.out_proj,
        *places, **sizes, **shape, HAS_TAPE=keep, maxnreg=cut.registers_outputs,
    )  # fmt: skip
    return out, last, tape


def backward(
    tokens: Tensor, weights: Weights, eps: float, tape: Tape, grad_out: Tensor, grad_last: Tensor
) -> tuple[Tensor, Weights, Tensor]:
    """Turn the gradients of both results of `forward` into those of tokens, weights and h0.

    Args:
        tokens: as in `forward`, like `weights` and `eps`.
        tape: from `forward` with `keep`.
        grad_out: gradient of the new tokens `(B, L, DM)`, contiguous.
        grad_last: gradient of the last state `(B, E, N)`, contiguous.
    """
    batch, length, _ = tokens.shape
    w, new = weights, tokens.new_empty
    cut = plan(batch, length, w.A_log.numel())
    sizes, places = _sizes(w), (length, cut.num_chunks, cut.total_chunks)
    adjoints, grad_h0 = new(cut.total_chunks, w.A_log.numel()), torch.empty_like(grad_last)
    grid, shape = _launch(w, cut, 1)
    chunk_adjoints[grid](
        tape.rows, tape.packed, grad_out, adjoints, w.A_log, *places, **sizes, **shape,
        maxnreg=cut.registers_scan,
    )  # fmt: skip
    _carry_over(adjoints, tape.sums, w.A_log, grad_last, grad_h0, reverse=True)
    grid, shape = _launch(w, cut, cut.warps)
    grad_tokens = torch.empty_like(tokens)
    partials = new(grid[0], sum(weight.numel() for weight in w))
    gradients[grid](
        tokens, tape.rows, tape.packed, grad_out, grad_tokens, tape.tile_starts, adjoints, partials,
        w.norm_weight, w.in_proj, w.x_proj, w.dt_weight, w.A_log, w.D, eps,
        *places, **sizes, **shape, maxnreg=cut.registers_gradients,
    )  # fmt: skip
    total = new(partials.shape[1])
    add_rows[(triton.cdiv(total.numel(), 32),)](
        partials, total, *partials.shape, ROWS=128, COLUMNS=32, num_warps=8, num_stages=1
    )
    flat = total.split([weight.numel() for weight in w])
    grads = Weights(*(part.view_as(weight) for part, weight in zip(flat, w, strict=True)))
    return grad_tokens, grads, grad_h0


def _sizes(w: Weights) -> dict[str, int]:
    d_inner, d_state = w.A_log.shape
    return {"DM": w.norm_weight.numel(), "E": d_inner, "N": d_state, "R": w.dt_weight.shape[1]}


def _launch(w: Weights, cut: Plan, warps: int) -> tuple[tuple[int], dict[str, int]]:
    shape = {"Q": min(4, w.A_log.shape[1]), "T": cut.tile, "W": warps, "TILES": cut.num_tiles}
    shape |= {"num_warps": warps, "num_stages": 1}
    return (triton.cdiv(cut.total_chunks, warps),), shape


def _carry_over(
    states: Tensor, sums: Tensor, A_log: Tensor, first: Tensor | None, last: Tensor, reverse: bool
) -> None:
    d_inner, d_state = A_log.shape
    block = min(128, d_inner * d_state)
    carry[last.shape[0], d_inner * d_state // block](
        states, sums, A_log, last if first is None else first, last, states.shape[0] // last.shape[0],
        E=d_inner, N=d_state, Q=min(4, d_state), BLOCK=block, T=16,
        REVERSE=reverse, HAS_FIRST=first is not None, num_warps=1, num_stages=1,
    )  # fmt: skip
