"""The fused Mamba block on CUDA, in Triton: projected once, then scanned in pieces that fill the chip.

A sequence is cut into chunks, and these into tiles of `T` tokens. A warp takes a chunk, a program `W`.

    forward    prepare          per token a row: a, Δ, B, C, τ, z
               chunk_ends       state at the end of each chunk, started from zero, and ΣΔ of the chunk
               carry            start of each chunk = exp(A ΣΔ) · start of the one before + its end
               outputs          scan from the true start, gate, projection back, residual
    backward   chunk_adjoints         adjoint of each chunk's start, with nothing coming from later chunks
               carry                  the same recurrence, from the last chunk to the first
               scan_gradients         gradients of s, B and C; of weights about the scan, partial sums
               projection_gradients   gradient of the tokens; of the other weights, partial sums
               add_rows               the sum of the partial sums, for both

States are never written per token: the one at the start of each tile is kept for the backward, the others are
computed again. Partial sums are added in a fixed order, without atomics: a result repeats bit for bit.

Sizes: B batch, L length, DM d_model, E d_inner, N d_state, R dt_rank; Q = min(N, 4). The kernels are in
`mamba_block_forward`, `mamba_block_backward` and `mamba_block_projections`, what they share in
`mamba_block_tiles`.
Source: our own; the recurrence is that of Gu and Dao, arXiv:2312.00752.
"""

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from lgbench.ops.block.backward import add_rows, chunk_adjoints, scan_gradients
from lgbench.ops.block.forward import carry, chunk_ends, outputs, prepare
from lgbench.ops.block.projections import projection_gradients
from lgbench.ops.launch import launch


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
    """Tokens in one tile of `outputs` and `scan_gradients`."""
    scan_tile: int
    """Tokens in one tile of `chunk_ends` and `chunk_adjoints`."""
    chunk: int
    """Tokens in a chunk, a multiple of 8."""
    num_chunks: int
    """Chunks in a sequence."""
    total_chunks: int
    """Chunks in the batch."""
    prepare_tiles: int
    """How many times 64 tokens a program of `prepare` takes."""
    projection_tiles: int
    """How many times 16 tokens a program of `projection_gradients` takes: 8 programs fit on a processor."""
    registers_scan: int
    """In `chunk_ends` and `chunk_adjoints`."""
    registers_prepare: int
    registers_outputs: int
    registers_gradients: int
    registers_projections: int


def plan(batch: int, length: int, states: int) -> Plan:
    """Cut a batch so that one chunk a warp fills the chip once: 16 warps on each of 132 processors.

    Short batches get chunks of 16 tokens. The longer the chunks, the coarser the choice, so that few
    kernels need compiling. `states` is d_inner times d_state; more than 256 leave room for only half as many
    tokens in a tile.
    """
    small = states <= 256
    eights = 2
    while eights * 8 < length and batch * triton.cdiv(length, eights * 8) > 16 * 132:
        eights += 1 if eights < 8 else eights // 4
    num_chunks = triton.cdiv(length, eights * 8)
    prepare_tiles = 1 if batch * length < 3 * 64 * 132 else 3
    tile, scan_tile = (4, 8) if small else (2, 2)
    registers = (128, 128, 128, 128, 255) if small else (128, 128, 255, 255, 255)
    return Plan(
        tile,
        scan_tile,
        eights * 8,
        num_chunks,
        batch * num_chunks,
        prepare_tiles,
        triton.cdiv(batch * length, 16 * 8 * 132),
        *registers,
    )


class Tape(NamedTuple):
    """What `forward` leaves for `backward`."""

    factors: Tensor
    """Weights as the backward multiplies with them, see `_pack_factors`."""
    rows: Tensor
    """Per token: a, Δ, B, C, τ, z; `(B * L, 3 E + 2 N + 4)`, then rows that fill the last chunk."""
    sums: Tensor
    """ΣΔ of each chunk, `(chunks, E)`."""
    gated: Tensor
    """Per token what was multiplied by W_out, y ∘ SiLU(z): `(B * L, E)`; empty if no backward follows."""
    slopes: Tensor
    """Its derivative by z, likewise."""
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
    num_rows, tiles = (batch - 1) * length + cut.num_chunks * cut.chunk, cut.chunk // cut.tile
    tape = Tape(
        new(7 * d_inner * d_model + 2 * d_inner * max(16, 2 * d_state)),
        new(num_rows, 3 * d_inner + 2 * d_state + 4),
        new(cut.total_chunks, d_inner),
        new(batch * length if keep else 0, d_inner),
        new(batch * length if keep else 0, d_inner),
        new(cut.total_chunks * tiles if keep else 0, d_inner * d_state),
    )
    states = new(cut.total_chunks, d_inner * d_state)
    last, out = new(batch, d_inner, d_state), torch.empty_like(tokens)
    flags = tokens if mask is None else mask.view(torch.uint8)
    stride = length if flags.shape == (batch, length) else 0
    launch(
        prepare, triton.cdiv(num_rows, 64 * cut.prepare_tiles),
        (tokens, tape.rows, tape.factors, *w[:5], w.out_proj, flags),
        (eps, length, batch * length, num_rows, stride),
        (*_sizes(w), 64, cut.prepare_tiles, mask is not None), 4, registers=cut.registers_prepare,
    )  # fmt: skip
    places = (length, cut.num_chunks, cut.total_chunks)
    launch(
        chunk_ends, cut.total_chunks, (tape.rows, states, tape.sums, w.A_log), places,
        (*_sizes(w), cut.scan_tile, 1, cut.chunk // cut.scan_tile), registers=cut.registers_scan,
    )  # fmt: skip
    _carry_over(states, tape.sums, w.A_log, h0, last, reverse=False)
    launch(
        outputs, cut.total_chunks,
        (
            tokens, tape.rows, out, states, tape.tile_starts, tape.gated, tape.slopes,
            w.A_log, w.D, w.out_proj,
        ),
        places,
        (*_sizes(w), cut.tile, 1, tiles, keep), registers=cut.registers_outputs,
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
    d_inner, d_state = weights.A_log.shape
    w, new = weights, tokens.new_empty
    cut = plan(batch, length, d_inner * d_state)
    places = (length, cut.num_chunks, cut.total_chunks)
    adjoints, grad_h0 = new(cut.total_chunks, d_inner * d_state), torch.empty_like(grad_last)
    grad_ys = new(len(tape.rows), d_inner)
    launch(
        chunk_adjoints, cut.total_chunks,
        (tape.rows, tape.factors, grad_out, grad_ys, adjoints, w.A_log), places,
        (*_sizes(w), cut.scan_tile, 1, cut.chunk // cut.scan_tile), registers=cut.registers_scan,
    )  # fmt: skip
    _carry_over(adjoints, tape.sums, w.A_log, grad_last, grad_h0, reverse=True)

    names = ("dt_weight", "dt_bias", "A_log", "D", "x_proj", "norm_weight", "in_proj", "out_proj")
    sizes = [getattr(w, name).numel() for name in names]
    by_scan = sum(sizes[:4]) + w.dt_weight.numel()  # x_proj begins with dt_rank rows for the time step
    total, grads = new(sum(sizes)), new(batch * length, d_inner + 2 * d_state)
    partials = new(cut.total_chunks, by_scan)
    launch(
        scan_gradients, cut.total_chunks,
        (
            tape.rows, grad_ys, tape.tile_starts, adjoints, grads, partials,
            w.x_proj, w.dt_weight, w.A_log, w.D,
        ),
        places, (*_sizes(w), cut.tile, cut.chunk // cut.tile), registers=cut.registers_gradients,
    )  # fmt: skip
    _add_up(partials, total[:by_scan])
    grad_tokens = torch.empty_like(tokens)
    programs = triton.cdiv(batch * length, 16 * cut.projection_tiles)
    partials = new(programs, sum(sizes) - by_scan)
    launch(
        projection_gradients, programs,
        (
            tokens, tape.rows, tape.gated, tape.slopes, grads, grad_out, grad_tokens, tape.factors, partials,
            w.norm_weight,
        ),
        (eps, batch * length, cut.projection_tiles), (*_sizes(w), 16), registers=cut.registers_projections,
    )  # fmt: skip
    _add_up(partials, total[by_scan:])
    found = dict(zip(names, total.split(sizes), strict=True))
    grad_weights = Weights(**{name: found[name].view_as(old) for name, old in w._asdict().items()})
    return grad_tokens, grad_weights, grad_h0


def _sizes(w: Weights) -> tuple[int, ...]:
    """Of a kernel's constants those that the weights tell: DM, E, N, R, Q."""
    d_inner, d_state = w.A_log.shape
    return w.norm_weight.numel(), d_inner, d_state, w.dt_weight.shape[1], min(4, d_state)


def _carry_over(
    states: Tensor, sums: Tensor, A_log: Tensor, first: Tensor | None, last: Tensor, reverse: bool
) -> None:
    d_inner, d_state = A_log.shape
    block = min(128, d_inner * d_state)
    launch(
        carry, last.shape[0] * d_inner * d_state // block,
        (states, sums, A_log, last if first is None else first, last), (states.shape[0] // last.shape[0],),
        (d_inner, d_state, min(4, d_state), block, 16, reverse, first is not None),
    )  # fmt: skip


def _add_up(partials: Tensor, total: Tensor) -> None:
    launch(add_rows, triton.cdiv(len(total), 8), (partials, total), partials.shape, (512, 8), 8)
