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

Several models of one shape may run in the same launches (`Stack`): programs of a model read its weights, and
its partial sums are its own. Sums are over chunks and tiles counted from the end of a sequence, which lie
the same however many models there are and however far sequences are padded on the left.

States are never written per token: the one at the start of each tile is kept for the backward, the others are
computed again. Partial sums are added in a fixed order, without atomics: a result repeats bit for bit.

Sizes: B batch, L length, DM d_model, E d_inner, N d_state, R dt_rank; Q = min(N, 4). The kernels are in
`forward`, `backward` and `projections`, what they share in `tiles`.
Source: our own; the recurrence is that of Gu and Dao, arXiv:2312.00752.
"""

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from lgbench.ops.block.backward import add_rows, chunk_adjoints, scan_gradients
from lgbench.ops.block.forward import carry, chunk_ends, outputs, prepare
from lgbench.ops.block.projections import projection_gradients
from lgbench.ops.block.stacked import IN_A_ROW
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


class Stack(NamedTuple):
    """Several models in one launch, each with its share of the sequences, in order."""

    stride: int
    """From a weight of one model to the same weight of the next, in numbers; a multiple of 16."""
    starts: Tensor
    """int32 `(2, models)`: first step of a model's sequences that is real; the same rounded down to a
    chunk.
    """
    longest: int
    """Tokens of the longest sequences that this stack is ever given: the cut must not depend on others."""

    @property
    def models(self) -> int:
        """How many."""
        return self.starts.shape[1]


def stack_plan(batch: int, longest: int, states: int) -> Plan:
    """`plan` of one model's sequences, for launches that many models share: only their length may differ."""
    cut = plan(batch, longest, states)
    return cut._replace(projection_tiles=max(4, cut.projection_tiles))


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
    tokens: Tensor, weights: Weights, eps: float, h0: Tensor | None, mask: Tensor | None, keep: bool,
    stack: Stack | None = None,
) -> tuple[Tensor, Tensor, Tape]:  # fmt: skip
    """Run the block.

    Args:
        tokens: `(B, L, DM)` float32, contiguous, not empty. With a stack, B counts the sequences of all
            models.
        weights: float32, contiguous; with a stack, each with a leading axis of models.
        eps: of the norm.
        h0: `(B, E, N)` contiguous, or None for zero.
        mask: bool `(L,)` or `(B, L)`, contiguous, True for a real token; None if all are.
        keep: whether a backward follows.
        stack: several models; their sequences are whole chunks long, without h0 and mask. What they give
            before a model's first chunk with a real token is not defined.

    Returns:
        new tokens `(B, L, DM)`; last state `(B, E, N)`; the tape.
    """
    batch, length, d_model = tokens.shape
    d_inner, d_state = weights.A_log.shape[-2:]
    w, new = weights, tokens.new_empty
    cut = _cut(batch, length, d_inner * d_state, stack)
    num_rows, tiles = (batch - 1) * length + cut.num_chunks * cut.chunk, cut.chunk // cut.tile
    models, stride, starts = (1, 0, tokens) if stack is None else (stack.models, stack.stride, stack.starts)
    num_factors = 7 * d_inner * d_model + 2 * d_inner * max(16, 2 * d_state)
    tape = Tape(
        new(models, num_factors),
        new(num_rows, 3 * d_inner + 2 * d_state + 4),
        new(cut.total_chunks, d_inner),
        new(batch * length if keep else 0, d_inner),
        new(batch * length if keep else 0, d_inner),
        new(cut.total_chunks * tiles if keep else 0, d_inner * d_state),
    )
    states = new(cut.total_chunks, d_inner * d_state)
    last, out = new(batch, d_inner, d_state), torch.empty_like(tokens)
    flags = tokens if mask is None else mask.view(torch.uint8)
    mask_stride = length if flags.shape == (batch, length) else 0
    programs = triton.cdiv(num_rows // models, 64 * cut.prepare_tiles)
    launch(
        prepare, models * programs,
        (tokens, tape.rows, tape.factors, *w[:5], w.out_proj, flags, starts),
        (
            eps, length, batch * length // models, num_rows // models, mask_stride,
            programs, models, stride, num_factors,
        ),
        (*_sizes(w), 64, cut.prepare_tiles, mask is not None, stack is not None), 4,
        registers=cut.registers_prepare,
    )  # fmt: skip
    places = (length, cut.num_chunks, cut.total_chunks, batch // models, models, stride)
    launch(
        chunk_ends, cut.total_chunks, (tape.rows, states, tape.sums, w.A_log, starts), places,
        (*_sizes(w), cut.scan_tile, 1, cut.chunk // cut.scan_tile, stack is not None),
        registers=cut.registers_scan,
    )  # fmt: skip
    _carry_over(states, tape.sums, w.A_log, h0, last, cut, stack, reverse=False)
    launch(
        outputs, cut.total_chunks,
        (
            tokens, tape.rows, out, states, tape.tile_starts, tape.gated, tape.slopes,
            w.A_log, w.D, w.out_proj, starts,
        ),
        places,
        (*_sizes(w), cut.tile, 1, tiles, keep, stack is not None), registers=cut.registers_outputs,
    )  # fmt: skip
    return out, last, tape


GRADIENTS = IN_A_ROW
"""The weights in the order in which `backward` writes their gradients."""


def backward(
    tokens: Tensor, weights: Weights, eps: float, tape: Tape, grad_out: Tensor, grad_last: Tensor,
    total: Tensor, stack: Stack | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Turn the gradients of both results of `forward` into those of tokens and h0, which it returns, and
    weights.

    Args:
        tokens: as in `forward`, like `weights`, `eps` and `stack`.
        tape: from `forward` with `keep`.
        grad_out: gradient of the new tokens `(B, L, DM)`, contiguous.
        grad_last: gradient of the last state `(B, E, N)`, contiguous.
        total: `(models, numbers)`, contiguous rows; is given the gradients of the weights as `GRADIENTS`
            says.
    """
    batch, length, _ = tokens.shape
    d_inner, d_state = weights.A_log.shape[-2:]
    w, new = weights, tokens.new_empty
    cut = _cut(batch, length, d_inner * d_state, stack)
    models, stride, starts = (1, 0, tokens) if stack is None else (stack.models, stack.stride, stack.starts)
    num_factors = tape.factors.shape[1]
    places = (length, cut.num_chunks, cut.total_chunks, batch // models, models, stride)
    adjoints, grad_h0 = new(cut.total_chunks, d_inner * d_state), torch.empty_like(grad_last)
    grad_ys = new(len(tape.rows), d_inner)
    launch(
        chunk_adjoints, cut.total_chunks,
        (tape.rows, tape.factors, grad_out, grad_ys, adjoints, w.A_log, starts), (*places, num_factors),
        (*_sizes(w), cut.scan_tile, 1, cut.chunk // cut.scan_tile, stack is not None),
        registers=cut.registers_scan,
    )  # fmt: skip
    _carry_over(adjoints, tape.sums, w.A_log, grad_last, grad_h0, cut, stack, reverse=True)

    sizes = [getattr(w, name).numel() // models for name in GRADIENTS]
    by_scan = sum(sizes[:4]) + sizes[0]  # x_proj begins with dt_rank rows for the time step
    grads = new(batch * length, d_inner + 2 * d_state)
    partials = new(cut.total_chunks, by_scan)
    launch(
        scan_gradients, cut.total_chunks,
        (
            tape.rows, grad_ys, tape.tile_starts, adjoints, grads, partials,
            w.x_proj, w.dt_weight, w.A_log, w.D, starts,
        ),
        places, (*_sizes(w), cut.tile, cut.chunk // cut.tile, stack is not None),
        registers=cut.registers_gradients,
    )  # fmt: skip
    rows_of = (length, batch // models, models)
    _add_up(partials, total[:, :by_scan], stack, (*rows_of, cut.chunk, 1))
    grad_tokens = torch.empty_like(tokens)
    programs = triton.cdiv(triton.cdiv(length, 16) * (batch // models), cut.projection_tiles)
    partials = new(models * programs, sum(sizes) - by_scan)
    launch(
        projection_gradients, models * programs,
        (
            tokens, tape.rows, tape.gated, tape.slopes, grads, grad_out, grad_tokens, tape.factors, partials,
            w.norm_weight, starts,
        ),
        (eps, length, batch // models, cut.projection_tiles, programs, models, stride, num_factors),
        (*_sizes(w), 16, stack is not None), registers=cut.registers_projections,
    )  # fmt: skip
    _add_up(partials, total[:, by_scan:], stack, (*rows_of, 16, cut.projection_tiles))
    return grad_tokens, grad_h0


def split_gradients(total: Tensor, weights: Weights) -> Weights:
    """The gradients of the weights of one model `(numbers,)` in the shapes of the weights."""
    like = weights._asdict()
    parts = total.split([like[name].numel() for name in GRADIENTS])
    return Weights(**{name: g.view_as(like[name]) for name, g in zip(GRADIENTS, parts, strict=True)})


def _cut(batch: int, length: int, states: int, stack: Stack | None) -> Plan:
    if stack is None:
        return plan(batch, length, states)
    cut = stack_plan(batch // stack.models, stack.longest, states)
    if length % cut.chunk:
        raise ValueError(f"a stack takes whole chunks of {cut.chunk} tokens, got {length}")
    num_chunks = length // cut.chunk
    return cut._replace(num_chunks=num_chunks, total_chunks=batch * num_chunks)


def _sizes(w: Weights) -> tuple[int, ...]:
    """Of a kernel's constants those that the weights tell: DM, E, N, R, Q."""
    d_inner, d_state = w.A_log.shape[-2:]
    return w.norm_weight.shape[-1], d_inner, d_state, w.dt_weight.shape[-1], min(4, d_state)


def _carry_over(
    states: Tensor, sums: Tensor, A_log: Tensor, first: Tensor | None, last: Tensor, cut: Plan,
    stack: Stack | None, reverse: bool,
) -> None:  # fmt: skip
    d_inner, d_state = A_log.shape[-2:]
    block, batch = min(128, d_inner * d_state), len(last)
    models, stride, starts = (1, 0, sums) if stack is None else (stack.models, stack.stride, stack.starts)
    launch(
        carry, batch * d_inner * d_state // block,
        (states, sums, A_log, last if first is None else first, last, starts),
        (cut.num_chunks, cut.chunk, batch // models, models, stride),
        (
            d_inner, d_state, min(4, d_state), block, 16, reverse, first is not None, stack is not None,
        ),
    )  # fmt: skip


def _add_up(partials: Tensor, total: Tensor, stack: Stack | None, rows_of: tuple[int, ...]) -> None:
    """Sum the rows of each model; `rows_of` are the numbers of `add_rows` from `length` on."""
    models, columns = total.shape
    launch(
        add_rows, models * triton.cdiv(columns, 8),
        (partials, total, partials if stack is None else stack.starts),
        (len(partials) // models, columns, total.stride(0), *rows_of), (512, 8, stack is not None), 8,
    )  # fmt: skip
