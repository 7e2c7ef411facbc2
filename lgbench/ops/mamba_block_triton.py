"""Triton kernels of the fused Mamba block: everything between two residual streams stays on chip.

A sequence is cut into chunks of `CHUNK` tokens, worked through in tiles of `T`; one program takes `W` chunks side by
side, a warp each, so that weights are read once for all of them. Three passes in each direction:

    forward    chunk_ends       state at the end of each chunk, started from zero, and ΣΔ of the chunk
               carry            start of each chunk = exp(A ΣΔ) · start of the one before + its end
               outputs          the whole block, from the true start
    backward   chunk_adjoints   adjoint of each chunk's start, with nothing coming from later chunks
               carry            the same recurrence, from the last chunk to the first
               gradients        gradient of the tokens, and one partial sum of each weight's gradient per program

Only tokens and states go through memory: the projections are computed again in each pass. States are kept at the start
of each tile for the backward. Partial sums are added in a fixed order, so a result repeats bit for bit.

Sizes: B batch, L length, DM d_model, E d_inner, N d_state, R dt_rank. Tiles of rank 4 are `[T, N, W, E]`: channels lie
across the lanes of a warp, time and state inside a thread, so that a step of the recurrence needs no exchange.
Source: our own; the recurrence is that of Gu and Dao, arXiv:2312.00752.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def _sigmoid(x):
    return 1.0 / (1.0 + tl.exp2(-x * LOG2E))


@triton.jit
def _softplus(x):
    """log(1 + exp(x)) with small relative error for every x, from log1p(u) = 2 artanh(u / (2 + u))."""
    u = tl.exp2(-tl.abs(x) * LOG2E)
    q = u / (2.0 + u)
    p = q * q
    series = 0.09090909 + p * (0.07692308 + p * 0.06666667)
    series = 1.0 + p * (0.33333333 + p * (0.2 + p * (0.14285714 + p * (0.11111111 + p * series))))
    return tl.maximum(x, 0.0) + 2.0 * q * series


@triton.jit
def _row(tile, t: tl.constexpr, T: tl.constexpr):
    """Time step `t` of a tile of rank 4. Time lies inside a thread and whole numbers add 0 for nothing: this only names a register."""
    steps = tl.arange(0, T)[:, None, None, None]
    bits = tl.where(steps == t, tile.to(tl.int32, bitcast=True), 0)
    return tl.sum(bits, axis=0).to(tl.float32, bitcast=True)


@triton.jit
def _places(tile, length, num_chunks, total_chunks, mask_ptr, mask_stride, HAS_MASK: tl.constexpr,
            TILES: tl.constexpr, T: tl.constexpr, W: tl.constexpr):  # fmt: skip
    """Rows of a tile, `[T * W]` with time outermost: their place among all tokens, which exist, which are real."""
    rows = tl.arange(0, T * W)
    chunk = tl.program_id(0) * W + rows % W
    item = chunk // num_chunks
    step = ((chunk % num_chunks) * TILES + tile) * T + rows // W
    inside = (step < length) & (chunk < total_chunks)
    real = inside
    if HAS_MASK:
        at = mask_ptr + item.to(tl.int64) * mask_stride + step
        real = inside & (tl.load(at, mask=inside, other=0) != 0)
    return item.to(tl.int64) * length + step, inside, real


@triton.jit
def _load_rows(ptr, places, inside, DM: tl.constexpr):
    at = ptr + places[:, None] * DM + tl.arange(0, DM)[None, :]
    return tl.load(at, mask=inside[:, None], other=0.0)


@triton.jit
def _store_rows(ptr, places, inside, values, DM: tl.constexpr):
    at = ptr + places[:, None] * DM + tl.arange(0, DM)[None, :]
    tl.store(at, values, mask=inside[:, None])


@triton.jit
def _matrix(ptr, ROWS: tl.constexpr, COLS: tl.constexpr, STRIDE_R: tl.constexpr, STRIDE_C: tl.constexpr):
    return tl.load(ptr + tl.arange(0, ROWS)[:, None] * STRIDE_R + tl.arange(0, COLS)[None, :] * STRIDE_C)


@triton.jit
def _dot(a, b):
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def _state_places(N: tl.constexpr, W: tl.constexpr, E: tl.constexpr, slot, slots, total_chunks):
    """Offsets `[W, N, E]` of slot `slot` (of `slots`) of the states of this program's chunks, and which exist."""
    chunk = tl.program_id(0) * W + tl.arange(0, W)
    at = (chunk.to(tl.int64) * slots + slot) * (N * E)
    inner = tl.arange(0, N)[None, :, None] * E + tl.arange(0, E)[None, None, :]
    # the hint denies 16-byte accesses: they would spread channels over lanes otherwise than the recurrence does
    return at[:, None, None] + tl.multiple_of(inner, [1, 1, 1]), (chunk < total_chunks)[:, None, None]


@triton.jit
def _load_states(ptr, slot, slots, total_chunks, N: tl.constexpr, W: tl.constexpr, E: tl.constexpr):
    at, exists = _state_places(N, W, E, slot, slots, total_chunks)
    return tl.permute(tl.load(ptr + at, mask=exists, other=0.0), (1, 0, 2))


@triton.jit
def _store_states(ptr, h, slot, slots, total_chunks, N: tl.constexpr, W: tl.constexpr, E: tl.constexpr):
    at, exists = _state_places(N, W, E, slot, slots, total_chunks)
    tl.store(ptr + at, tl.permute(h, (1, 0, 2)), mask=exists)


@triton.jit
def _decay_rates(A_log, N: tl.constexpr, E: tl.constexpr):
    """A · log2(e), `[N, E]`: `exp2` of it times Δ is the decay."""
    return -tl.exp2(_matrix(A_log, N, E, 1, N) * LOG2E) * LOG2E


@triton.jit
def _normalised(x, norm_weight, eps, DM: tl.constexpr):
    scale = tl.rsqrt(tl.sum(x * x, axis=1) / DM + eps)
    unit = x * scale[:, None]
    return unit * tl.load(norm_weight + tl.arange(0, DM))[None, :], unit, scale


@triton.jit
def _steps(s, x_proj, dt_weight, dt_bias, E: tl.constexpr, R: tl.constexpr):
    """Δ before the softplus, `[T * W, E]`."""
    e = tl.arange(0, E)
    pre = tl.zeros_like(s) + tl.load(dt_bias + e)[None, :]
    for r in tl.static_range(R):
        tau = tl.sum(s * tl.load(x_proj + r * E + e)[None, :], axis=1)
        pre += tau[:, None] * tl.load(dt_weight + e * R + r)[None, :]
    return pre


@triton.jit
def _over_states(tile, T: tl.constexpr, W: tl.constexpr, E: tl.constexpr):
    """`[T * W, E]` → `[T, 1, W, E]`."""
    return tl.reshape(tile, (T, W, E))[:, None, :, :]


@triton.jit
def _over_channels(tile, T: tl.constexpr, N: tl.constexpr, W: tl.constexpr):
    """`[T * W, N]` → `[T, N, W, 1]`."""
    return tl.permute(tl.reshape(tile, (T, W, N)), (0, 2, 1))[:, :, :, None]


@triton.jit(do_not_specialize=["length", "num_chunks", "total_chunks", "mask_stride"])
def chunk_ends(
    tokens, ends, sums, norm_weight, in_proj, x_proj, dt_weight, dt_bias, A_log, mask, eps,
    length, num_chunks, total_chunks, mask_stride,
    DM: tl.constexpr, E: tl.constexpr, N: tl.constexpr, R: tl.constexpr,
    T: tl.constexpr, W: tl.constexpr, TILES: tl.constexpr, HAS_MASK: tl.constexpr,
):  # fmt: skip
    """Write the state at the end of each chunk, started from zero, and ΣΔ of each chunk."""
    rates = _decay_rates(A_log, N, E)[None, :, None, :]
    h = tl.zeros((N, W, E), tl.float32)
    total = tl.zeros((W, E), tl.float32)
    for tile in range(TILES):
        places, inside, real = _places(
            tile, length, num_chunks, total_chunks, mask, mask_stride, HAS_MASK, TILES, T, W
        )
        if tl.max(real.to(tl.int32), axis=0) > 0:
            x = _load_rows(tokens, places, inside, DM)
            u, _, _ = _normalised(x, norm_weight, eps, DM)
            a = _dot(u, _matrix(in_proj, DM, E, 1, DM))
            s = a * _sigmoid(a)
            b = _over_channels(_dot(s, _matrix(x_proj + R * E, E, N, 1, E)), T, N, W)
            delta = tl.where(real[:, None], _softplus(_steps(s, x_proj, dt_weight, dt_bias, E, R)), 0.0)
            step = _over_states(delta, T, W, E)
            total += tl.sum(tl.reshape(delta, (T, W, E)), axis=0)
            decay = tl.exp2(step * rates)
            new = _over_states(delta * s, T, W, E) * b
            for t in tl.static_range(T):
                h = _row(decay, t, T) * h + _row(new, t, T)
    _store_states(ends, h, 0, 1, total_chunks, N, W, E)
    at = (tl.program_id(0) * W + tl.arange(0, W)).to(tl.int64)
    at_sum = sums + at[:, None] * E + tl.arange(0, E)[None, :]
    tl.store(at_sum, total, mask=(at < total_chunks)[:, None])


@triton.jit(do_not_specialize=["num_chunks"])
def carry(
    locals_, sums, A_log, first, last, num_chunks,
    E: tl.constexpr, N: tl.constexpr, BLOCK: tl.constexpr, T: tl.constexpr,
    REVERSE: tl.constexpr, HAS_FIRST: tl.constexpr,
):  # fmt: skip
    """Replace each chunk's own contribution by what comes into the chunk, from `first` on; write what leaves as `last`.

    `first` and `last` are `(B, E, N)`; the chunks' states are `(B, chunks, N, E)`. Forward, `locals_` are ends from zero
    and become starts. Backward, they are adjoints of the starts and become adjoints of the ends.
    """
    item = tl.program_id(0).to(tl.int64)
    state = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    n = state // E
    e = state % E
    outside = (item * E + e) * N + n
    rate = -tl.exp2(tl.load(A_log + e * N + n) * LOG2E) * LOG2E
    h = tl.zeros((BLOCK,), tl.float32)
    if HAS_FIRST:
        h = tl.load(first + outside)
    steps = tl.arange(0, T)
    begin = 0
    while begin < num_chunks:
        order = begin + steps
        chunk = order
        if REVERSE:
            chunk = num_chunks - 1 - order
        exists = (order < num_chunks)[:, None]
        at = (item * num_chunks + chunk)[:, None]
        where = locals_ + at * (N * E) + state[None, :]
        local = tl.load(where, mask=exists, other=0.0)
        decay = tl.exp2(tl.load(sums + at * E + e[None, :], mask=exists, other=0.0) * rate[None, :])
        incoming = tl.zeros_like(local)
        for t in tl.static_range(T):
            here = (steps == t)[:, None]
            incoming = tl.where(here, h[None, :], incoming)
            h = tl.sum(tl.where(here, decay, 0.0), axis=0) * h + tl.sum(tl.where(here, local, 0.0), axis=0)
        tl.store(where, incoming, mask=exists)
        begin += T
    tl.store(last + outside, h)


@triton.jit(do_not_specialize=["length", "num_chunks", "total_chunks", "mask_stride"])
def outputs(
    tokens, out, starts, tile_starts,
    norm_weight, in_proj, x_proj, dt_weight, dt_bias, A_log, D, out_proj, mask, eps,
    length, num_chunks, total_chunks, mask_stride,
    DM: tl.constexpr, E: tl.constexpr, N: tl.constexpr, R: tl.constexpr,
    T: tl.constexpr, W: tl.constexpr, TILES: tl.constexpr, HAS_MASK: tl.constexpr, HAS_TAPE: tl.constexpr,
):  # fmt: skip
    """Write tokens + block output; with `HAS_TAPE` also the state at the start of each tile."""
    steps = tl.arange(0, T)[:, None, None, None]
    rates = _decay_rates(A_log, N, E)[None, :, None, :]
    h = _load_states(starts, 0, 1, total_chunks, N, W, E)
    for tile in range(TILES):
        places, inside, real = _places(
            tile, length, num_chunks, total_chunks, mask, mask_stride, HAS_MASK, TILES, T, W
        )
        x = _load_rows(tokens, places, inside, DM)
        new_x = x
        if tl.max(real.to(tl.int32), axis=0) > 0:
            if HAS_TAPE:
                _store_states(tile_starts, h, tile, TILES, total_chunks, N, W, E)
            u, _, _ = _normalised(x, norm_weight, eps, DM)
            a = _dot(u, _matrix(in_proj, DM, E, 1, DM))
            z = _dot(u, _matrix(in_proj + E * DM, DM, E, 1, DM))
            s = a * _sigmoid(a)
            b = _over_channels(_dot(s, _matrix(x_proj + R * E, E, N, 1, E)), T, N, W)
            c = _over_channels(_dot(s, _matrix(x_proj + (R + N) * E, E, N, 1, E)), T, N, W)
            delta = tl.where(real[:, None], _softplus(_steps(s, x_proj, dt_weight, dt_bias, E, R)), 0.0)
            decay = tl.exp2(_over_states(delta, T, W, E) * rates)
            new = _over_states(delta * s, T, W, E) * b
            states = tl.zeros((T, N, W, E), tl.float32)
            for t in tl.static_range(T):
                h = _row(decay, t, T) * h + _row(new, t, T)
                states = tl.where(steps == t, h[None, :, :, :], states)
            y = tl.reshape(tl.sum(states * c, axis=1), (T * W, E))
            y += tl.load(D + tl.arange(0, E))[None, :] * s
            block = _dot(y * z * _sigmoid(z), _matrix(out_proj, E, DM, 1, E))
            new_x = x + tl.where(real[:, None], block, 0.0)
        _store_rows(out, places, inside, new_x, DM)


@triton.jit(do_not_specialize=["length", "num_chunks", "total_chunks", "mask_stride"])
def chunk_adjoints(
    tokens, grad_out, adjoints,
    norm_weight, in_proj, x_proj, dt_weight, dt_bias, A_log, out_proj, mask, eps,
    length, num_chunks, total_chunks, mask_stride,
    DM: tl.constexpr, E: tl.constexpr, N: tl.constexpr, R: tl.constexpr,
    T: tl.constexpr, W: tl.constexpr, TILES: tl.constexpr, HAS_MASK: tl.constexpr,
):  # fmt: skip
    """Write the adjoint of the state at the start of each chunk, as far as it comes from the chunk's own outputs."""
    rates = _decay_rates(A_log, N, E)[None, :, None, :]
    g = tl.zeros((N, W, E), tl.float32)
    for back in range(TILES):
        tile = TILES - 1 - back
        places, inside, real = _places(
            tile, length, num_chunks, total_chunks, mask, mask_stride, HAS_MASK, TILES, T, W
        )
        if tl.max(real.to(tl.int32), axis=0) > 0:
            x = _load_rows(tokens, places, inside, DM)
            grad = _load_rows(grad_out, places, real, DM)
            u, _, _ = _normalised(x, norm_weight, eps, DM)
            a = _dot(u, _matrix(in_proj, DM, E, 1, DM))
            z = _dot(u, _matrix(in_proj + E * DM, DM, E, 1, DM))
            s = a * _sigmoid(a)
            c = _over_channels(_dot(s, _matrix(x_proj + (R + N) * E, E, N, 1, E)), T, N, W)
            delta = tl.where(real[:, None], _softplus(_steps(s, x_proj, dt_weight, dt_bias, E, R)), 0.0)
            dy = _dot(grad, _matrix(out_proj, DM, E, E, 1)) * z * _sigmoid(z)
            decay = tl.exp2(_over_states(delta, T, W, E) * rates)
            new = _over_states(dy, T, W, E) * c
            for back_t in tl.static_range(T):
                g = _row(decay, T - 1 - back_t, T) * (g + _row(new, T - 1 - back_t, T))
    _store_states(adjoints, g, 0, 1, total_chunks, N, W, E)


@triton.jit(do_not_specialize=["length", "num_chunks", "total_chunks", "mask_stride"])
def gradients(
    tokens, grad_out, grad_tokens, tile_starts, adjoints, partials,
    norm_weight, in_proj, x_proj, dt_weight, dt_bias, A_log, D, out_proj, mask, eps,
    length, num_chunks, total_chunks, mask_stride,
    DM: tl.constexpr, E: tl.constexpr, N: tl.constexpr, R: tl.constexpr,
    T: tl.constexpr, W: tl.constexpr, TILES: tl.constexpr, HAS_MASK: tl.constexpr,
):  # fmt: skip
    """Write the gradient of the tokens and this program's share of each weight's gradient.

    A row of `partials` holds, flat and in this order: norm_weight, in_proj, x_proj, dt_weight, dt_bias, A_log, D, out_proj.
    """
    steps = tl.arange(0, T)[:, None, None, None]
    d = tl.arange(0, DM)
    e = tl.arange(0, E)
    n = tl.arange(0, N)
    rates = _decay_rates(A_log, N, E)[None, :, None, :]
    g = _load_states(adjoints, 0, 1, total_chunks, N, W, E)
    row = partials + tl.program_id(0).to(tl.int64) * (DM + 3 * DM * E + (2 * R + 3 * N + 2) * E)
    sum_norm = tl.zeros((T * W, DM), tl.float32)
    sum_a = tl.zeros((E, DM), tl.float32)
    sum_z = tl.zeros((E, DM), tl.float32)
    sum_out = tl.zeros((E, DM), tl.float32)
    sum_b = tl.zeros((N, W, E), tl.float32)
    sum_c = tl.zeros((N, W, E), tl.float32)
    sum_rates = tl.zeros((N, W, E), tl.float32)
    sum_bias = tl.zeros((W, E), tl.float32)
    sum_skip = tl.zeros((W, E), tl.float32)
    # the two gradients of rank R are summed in memory: R is 1 or 2 where this kernel is used
    sum_tau = tl.zeros((R, W, E), tl.float32)
    sum_dt = tl.zeros((R, W, E), tl.float32)
    ranks = tl.arange(0, R)[:, None, None]
    for back in range(TILES):
        tile = TILES - 1 - back
        places, inside, real = _places(
            tile, length, num_chunks, total_chunks, mask, mask_stride, HAS_MASK, TILES, T, W
        )
        grad_here = _load_rows(grad_out, places, inside, DM)
        grad_x = grad_here
        if tl.max(real.to(tl.int32), axis=0) > 0:
            x = _load_rows(tokens, places, inside, DM)
            grad = tl.where(real[:, None], grad_here, 0.0)
            u, unit, scale = _normalised(x, norm_weight, eps, DM)
            a = _dot(u, _matrix(in_proj, DM, E, 1, DM))
            z = _dot(u, _matrix(in_proj + E * DM, DM, E, 1, DM))
            sig_a = _sigmoid(a)
            sig_z = _sigmoid(z)
            s = a * sig_a
            gate = z * sig_z
            b4 = _over_channels(_dot(s, _matrix(x_proj + R * E, E, N, 1, E)), T, N, W)
            c4 = _over_channels(_dot(s, _matrix(x_proj + (R + N) * E, E, N, 1, E)), T, N, W)
            pre = _steps(s, x_proj, dt_weight, dt_bias, E, R)
            delta = tl.where(real[:, None], _softplus(pre), 0.0)
            grad_v = _dot(grad, _matrix(out_proj, DM, E, E, 1))
            dy = grad_v * gate

            s3 = tl.reshape(s, (T, W, E))
            delta3 = tl.reshape(delta, (T, W, E))
            input4 = (delta3 * s3)[:, None, :, :]
            dy4 = tl.reshape(dy, (T, W, E))[:, None, :, :]
            decay = tl.exp2(delta3[:, None, :, :] * rates)
            new = input4 * b4
            h = _load_states(tile_starts, tile, TILES, total_chunks, N, W, E)
            before = tl.zeros((T, N, W, E), tl.float32)
            for t in tl.static_range(T):
                before = tl.where(steps == t, h[None, :, :, :], before)
                h = _row(decay, t, T) * h + _row(new, t, T)
            decayed = decay * before
            after = decayed + new
            y = tl.sum(after * c4, axis=1)
            grad_c = tl.sum(after * dy4, axis=3)
            pushed = dy4 * c4
            adjoint = tl.zeros((T, N, W, E), tl.float32)
            for back_t in tl.static_range(T):
                g += _row(pushed, T - 1 - back_t, T)
                adjoint = tl.where(steps == T - 1 - back_t, g[None, :, :, :], adjoint)
                g = _row(decay, T - 1 - back_t, T) * g
            grad_b = tl.sum(adjoint * input4, axis=3)
            grad_input = tl.sum(adjoint * b4, axis=1)
            through = adjoint * decayed
            sum_rates += tl.sum(through * delta3[:, None, :, :], axis=0)
            grad_delta = tl.sum(through * rates, axis=1) / LOG2E + s3 * grad_input
            sum_b += tl.sum(grad_b[:, :, :, None] * s3[:, None, :, :], axis=0)
            sum_c += tl.sum(grad_c[:, :, :, None] * s3[:, None, :, :], axis=0)
            wb = _matrix(x_proj + R * E, N, E, E, 1)[None, :, None, :]
            wc = _matrix(x_proj + (R + N) * E, N, E, E, 1)[None, :, None, :]
            grad_s3 = delta3 * grad_input + tl.sum(
                grad_b[:, :, :, None] * wb + grad_c[:, :, :, None] * wc, axis=1
            )

            skip = tl.load(D + e)[None, :]
            y_full = tl.reshape(y, (T * W, E)) + skip * s
            sum_skip += tl.sum(tl.reshape(dy * s, (T, W, E)), axis=0)
            grad_pre = tl.where(real[:, None], tl.reshape(grad_delta, (T * W, E)), 0.0) * _sigmoid(pre)
            sum_bias += tl.sum(tl.reshape(grad_pre, (T, W, E)), axis=0)
            grad_s = tl.reshape(grad_s3, (T * W, E)) + skip * dy
            for r in tl.static_range(R):
                w_tau = tl.load(x_proj + r * E + e)[None, :]
                tau = tl.sum(s * w_tau, axis=1)
                grad_tau = tl.sum(grad_pre * tl.load(dt_weight + e * R + r)[None, :], axis=1)
                grad_s += grad_tau[:, None] * w_tau
                by_tau = tl.sum(tl.reshape(grad_tau[:, None] * s, (T, W, E)), axis=0)
                by_dt = tl.sum(tl.reshape(grad_pre * tau[:, None], (T, W, E)), axis=0)
                sum_tau += tl.where(ranks == r, by_tau[None, :, :], 0.0)
                sum_dt += tl.where(ranks == r, by_dt[None, :, :], 0.0)
            grad_a = grad_s * (sig_a + s * (1.0 - sig_a))
            grad_z = grad_v * y_full * (sig_z + gate * (1.0 - sig_z))
            sum_out += _dot(tl.trans(y_full * gate), grad)
            sum_a += _dot(tl.trans(grad_a), u)
            sum_z += _dot(tl.trans(grad_z), u)
            grad_u = _dot(grad_a, _matrix(in_proj, E, DM, DM, 1))
            grad_u += _dot(grad_z, _matrix(in_proj + E * DM, E, DM, DM, 1))
            sum_norm += grad_u * unit
            grad_unit = grad_u * tl.load(norm_weight + d)[None, :]
            mean = tl.sum(grad_unit * unit, axis=1) / DM
            grad_x = grad_here + scale[:, None] * (grad_unit - unit * mean[:, None])
        _store_rows(grad_tokens, places, inside, grad_x, DM)

    inner = n[:, None] * E + e[None, :]
    tl.store(row + d, tl.sum(sum_norm, axis=0))
    row += DM
    at = e[:, None] * DM + d[None, :]
    tl.store(row + at, sum_a)
    tl.store(row + E * DM + at, sum_z)
    row += 2 * E * DM
    flat = tl.arange(0, R)[:, None] * E + e[None, :]
    tl.store(row + flat, tl.sum(sum_tau, axis=1))
    tl.store(row + R * E + inner, tl.sum(sum_b, axis=1))
    tl.store(row + (R + N) * E + inner, tl.sum(sum_c, axis=1))
    row += (R + 2 * N) * E
    tl.store(row + e[None, :] * R + tl.arange(0, R)[:, None], tl.sum(sum_dt, axis=1))
    row += R * E
    tl.store(row + e, tl.sum(sum_bias, axis=0))
    row += E
    rates2 = _decay_rates(A_log, N, E) / LOG2E
    tl.store(row + e[None, :] * N + n[:, None], tl.sum(sum_rates, axis=1) * rates2)
    row += E * N
    tl.store(row + e, tl.sum(sum_skip, axis=0))
    row += E
    tl.store(row + d[None, :] * E + e[:, None], sum_out)


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
    """How a batch is cut up."""

    tile: int
    """Tokens of a chunk in one tile."""
    warps: int
    """Chunks, and warps, in one program."""
    num_tiles: int
    """Tiles in a chunk."""
    num_chunks: int
    """Chunks in a sequence."""
    total_chunks: int
    """Chunks in the batch."""


def plan(batch: int, length: int, states: int) -> Plan:
    """Chunks of 4 tiles, longer ones where there are more than the chip can use; tiles that a thread can hold.

    `states` is d_inner times d_state.
    """
    tile, warps, num_tiles = 8 if states <= 256 else 4, 4, 4
    while batch * triton.cdiv(length, num_tiles * tile) > 8192:
        num_tiles *= 2
    num_chunks = triton.cdiv(length, num_tiles * tile)
    return Plan(tile, warps, num_tiles, num_chunks, batch * num_chunks)


def forward(
    tokens: Tensor, weights: Weights, eps: float, h0: Tensor | None, mask: Tensor | None, keep: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Run the block.

    Args:
        tokens: `(B, L, DM)` float32, contiguous, not empty.
        weights: float32, contiguous.
        eps: of the norm.
        h0: `(B, E, N)` contiguous, or None for zero.
        mask: bool `(L,)` or `(B, L)`, contiguous, True for a real token; None if all are.
        keep: also return what the backward needs.

    Returns:
        new tokens `(B, L, DM)`; last state `(B, E, N)`; ΣΔ of each chunk; states at the start of each tile, empty
        unless `keep`.
    """
    cut = plan(*tokens.shape[:2], weights.A_log.numel())
    sizes, places = _sizes(weights, cut), _places_of(tokens, mask, cut)
    d_inner, d_state = weights.A_log.shape
    states = tokens.new_empty(cut.total_chunks, d_state, d_inner)
    sums = tokens.new_empty(cut.total_chunks, d_inner)
    tile_starts = tokens.new_empty(cut.total_chunks * cut.num_tiles if keep else 0, d_state, d_inner)
    last = tokens.new_empty(tokens.shape[0], d_inner, d_state)
    out = torch.empty_like(tokens)
    grid = (triton.cdiv(cut.total_chunks, cut.warps),)
    chunk_ends[grid](tokens, states, sums, *weights[:6], eps=eps, **places, **sizes, num_warps=cut.warps)
    _carry_over(states, sums, weights.A_log, h0, last, reverse=False)
    outputs[grid](
        tokens, out, states, tile_starts, *weights, eps=eps, **places, **sizes,
        HAS_TAPE=keep, num_warps=cut.warps,
    )  # fmt: skip
    return out, last, sums, tile_starts


def backward(
    tokens: Tensor,
    weights: Weights,
    eps: float,
    mask: Tensor | None,
    sums: Tensor,
    tile_starts: Tensor,
    grad_out: Tensor,
    grad_last: Tensor,
) -> tuple[Tensor, Weights, Tensor]:
    """Turn the gradients of both results of `forward` into those of tokens, weights and h0.

    Args:
        tokens: as in `forward`, like `weights`, `eps` and `mask`.
        sums: from `forward`, like `tile_starts`.
        grad_out: gradient of the new tokens `(B, L, DM)`, contiguous.
        grad_last: gradient of the last state `(B, E, N)`, contiguous.
    """
    cut = plan(*tokens.shape[:2], weights.A_log.numel())
    sizes, places = _sizes(weights, cut), _places_of(tokens, mask, cut)
    d_inner, d_state = weights.A_log.shape
    grid = (triton.cdiv(cut.total_chunks, cut.warps),)
    adjoints = tokens.new_empty(cut.total_chunks, d_state, d_inner)
    grad_h0 = torch.empty_like(grad_last)
    grad_tokens = torch.empty_like(tokens)
    partials = tokens.new_empty(grid[0], sum(weight.numel() for weight in weights))
    chunk_adjoints[grid](
        tokens,
        grad_out,
        adjoints,
        *weights[:6],
        weights.out_proj,
        eps=eps,
        **places,
        **sizes,
        num_warps=cut.warps,
    )
    _carry_over(adjoints, sums, weights.A_log, grad_last, grad_h0, reverse=True)
    gradients[grid](
        tokens, grad_out, grad_tokens, tile_starts, adjoints, partials, *weights, eps=eps, **places, **sizes,
        num_warps=cut.warps,
    )  # fmt: skip
    flat = partials.sum(0).split([weight.numel() for weight in weights])
    return (
        grad_tokens,
        Weights(*(part.view_as(weight) for part, weight in zip(flat, weights, strict=True))),
        grad_h0,
    )


def _sizes(weights: Weights, cut: Plan) -> dict[str, int]:
    d_inner, d_state = weights.A_log.shape
    return {
        "DM": weights.norm_weight.numel(),
        "E": d_inner,
        "N": d_state,
        "R": weights.dt_weight.shape[1],
        "T": cut.tile,
        "W": cut.warps,
        "TILES": cut.num_tiles,
    }


def _places_of(tokens: Tensor, mask: Tensor | None, cut: Plan) -> dict[str, Tensor | int | bool]:
    return {
        "mask": tokens if mask is None else mask.view(torch.uint8),
        "mask_stride": mask.shape[1] if mask is not None and mask.dim() == 2 else 0,
        "HAS_MASK": mask is not None,
        "length": tokens.shape[1],
        "num_chunks": cut.num_chunks,
        "total_chunks": cut.total_chunks,
    }


def _carry_over(
    states: Tensor, sums: Tensor, A_log: Tensor, first: Tensor | None, last: Tensor, reverse: bool
) -> None:
    d_inner, d_state = A_log.shape
    block = min(128, d_inner * d_state)
    carry[last.shape[0], d_inner * d_state // block](
        states, sums, A_log, last if first is None else first, last, states.shape[0] // last.shape[0],
        E=d_inner, N=d_state, BLOCK=block, T=8, REVERSE=reverse, HAS_FIRST=first is not None, num_warps=1,
    )  # fmt: skip
