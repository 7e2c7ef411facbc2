"""Triton kernels of the fused Mamba block, forward: rows of the tokens, states of the chunks, and outputs.

    prepare          per token a row: a, Δ, B, C, τ, z
    chunk_ends       state at the end of each chunk, started from zero, and ΣΔ of the chunk
    carry            start of each chunk = exp(A ΣΔ) · start of the one before + its end
    outputs          scan from the true start, gate, projection back, residual

Sizes: B batch, L length, DM d_model, E d_inner, N d_state, R dt_rank; Q = min(N, 4). A warp takes a chunk of
a sequence, a program `W`; a chunk is `TILES` tiles of `T` tokens, laid out as `mamba_block_tiles` says.
The backward uses `carry` too, from the last chunk to the first.
"""

import triton
import triton.language as tl

from lgbench.ops.block.projections import _pack_factors
from lgbench.ops.block.tiles import (
    FAR_BELOW,
    LOG2E,
    _at,
    _channel,
    _dot_in_parts,
    _dot_with_parts,
    _fetch,
    _flat,
    _hold,
    _inner,
    _left_out,
    _model,
    _own,
    _parts,
    _rates,
    _row_places,
    _same,
    _shift,
    _sigmoid,
    _slot,
    _softplus,
    _sum_inner,
)


@triton.jit(
    do_not_specialize=[
        "length", "num_tokens", "num_rows", "mask_stride", "programs", "num_models", "stride",
        "factors_stride",
    ]
)  # fmt: skip
def prepare(
    tokens, rows, factors, norm_weight, in_proj, x_proj, dt_weight, dt_bias, out_proj, mask, starts, eps,
    length, num_tokens, num_rows, mask_stride, programs, num_models, stride, factors_stride,
    DM: tl.constexpr, E: tl.constexpr, N: tl.constexpr, R: tl.constexpr, Q: tl.constexpr,
    M: tl.constexpr, TILES: tl.constexpr, HAS_MASK: tl.constexpr, HAS_STARTS: tl.constexpr,
):  # fmt: skip
    """Write for each token a row: a, Δ (`[E]` each), B, C, τ (4 numbers), z (`[E]`).

    A program takes `TILES` times `M` tokens. A token that is not real, or beyond the last, gets Δ = 0 and a z
    so far below zero that gate and derivatives are exactly 0. What is known is written at once: registers are
    scarce here. The first program of a model also writes its `factors` of `projection_gradients`.
    `num_tokens` and `num_rows` are those of a model; with several, there are as many rows as tokens.
    """
    ROW: tl.constexpr = 3 * E + 2 * N + 4
    model = (tl.program_id(0) // programs).to(tl.int64)
    program = tl.program_id(0) % programs
    tokens += model * num_tokens * DM
    rows += model * num_tokens * ROW
    factors += _shift(model, factors_stride)
    shift = _shift(model, stride)
    norm_weight, in_proj, x_proj, out_proj = (
        norm_weight + shift,
        in_proj + shift,
        x_proj + shift,
        out_proj + shift,
    )
    dt_weight, dt_bias = dt_weight + shift, dt_bias + shift
    if program == 0:
        _pack_factors(factors, in_proj, x_proj, out_proj, DM, E, N, R)
    d = tl.arange(0, DM)
    e = tl.arange(0, E)
    n = tl.arange(0, 2 * N)
    j = tl.arange(0, 4)[None, :]
    a_high, a_low = _parts(tl.load(in_proj + e[None, :] * DM + d[:, None]))
    z_high, z_low = _parts(tl.load(in_proj + E * DM + e[None, :] * DM + d[:, None]))
    bc_high, bc_low = _parts(tl.load(x_proj + R * E + n[None, :] * E + e[:, None]))
    gain = tl.load(norm_weight + d)[None, :]
    bias = tl.load(dt_bias + e)[None, :]
    tile = 0
    if HAS_STARTS:
        real_from = tl.load(starts + model)
        missing = tl.load(starts + num_models + model) - program * (M * TILES) % length
        tile += tl.maximum(missing, 0) // M
    while tile < TILES:
        token = program.to(tl.int64) * (M * TILES) + tile * M + tl.arange(0, M)
        inside = token < num_tokens
        x = tl.load(tokens + token[:, None] * DM + d[None, :], mask=inside[:, None], other=0.0)
        u = x * tl.rsqrt(tl.sum(x * x, axis=1) / DM + eps)[:, None] * gain
        row, exists = rows + token[:, None] * ROW, (token < num_rows)[:, None]
        real = inside
        if HAS_MASK:
            flags = mask + (token // length) * mask_stride + token % length
            real = tl.load(flags, mask=inside, other=0) != 0
        if HAS_STARTS:
            real = inside & (token % length >= real_from)
        z = _dot_with_parts(u, z_high, z_low)
        tl.store(row + 2 * E + 2 * N + 4 + e[None, :], tl.where(real[:, None], z, FAR_BELOW), mask=exists)
        a = _dot_with_parts(u, a_high, a_low)
        tl.store(row + e[None, :], a, mask=exists)
        s = a * _sigmoid(a)
        tail = tl.zeros((M, 4), tl.float32)
        pre = tl.zeros_like(s) + bias
        for r in tl.static_range(R):
            tau = tl.sum(s * tl.load(x_proj + r * E + e)[None, :], axis=1)
            tail = tl.where(j == r, tau[:, None], tail)
            pre += tau[:, None] * tl.load(dt_weight + e * R + r)[None, :]
        tl.store(row + 2 * E + 2 * N + j, tail, mask=exists)
        tl.store(row + E + e[None, :], tl.where(real[:, None], _softplus(pre), 0.0), mask=exists)
        tl.store(row + 2 * E + n[None, :], _dot_with_parts(s, bc_high, bc_low), mask=exists)
        tile += 1


@triton.jit(do_not_specialize=["length", "num_chunks", "total_chunks", "batch", "num_models", "stride"])
def chunk_ends(
    rows, ends, sums, A_log, starts, length, num_chunks, total_chunks, batch, num_models, stride,
    DM: tl.constexpr, E: tl.constexpr, N: tl.constexpr, R: tl.constexpr, Q: tl.constexpr,
    T: tl.constexpr, W: tl.constexpr, TILES: tl.constexpr, HAS_STARTS: tl.constexpr,
):  # fmt: skip
    """Write the state at the end of each chunk, started from zero, and ΣΔ of each chunk."""
    ROW: tl.constexpr = 3 * E + 2 * N + 4
    model = _model(num_chunks, batch)
    if HAS_STARTS:  # noqa: SIM102 (the compiler decides this one)
        if _left_out(starts, model, num_models, num_chunks, TILES * T):
            return
    A_log += _shift(model, stride)
    rates = _rates(A_log, N, Q, E, W)
    h = tl.zeros((E, W, N // Q, Q), tl.float32)
    total = tl.zeros((E, W), tl.float32)
    ahead = _fetch(rows, 0, length, num_chunks, total_chunks, 0, 2 * E + N, ROW, T, W, TILES, E, False)
    fetched = ahead
    for tile in tl.range(TILES, num_stages=1):
        fetched |= ahead
        upcoming = tl.minimum(tile + 1, TILES - 1)
        ahead = _fetch(
            rows, upcoming, length, num_chunks, total_chunks, 0, 2 * E + N, ROW, T, W, TILES, E, False
        )
        places, inside = _row_places(tile, length, num_chunks, total_chunks, TILES, T, W)
        at = places * ROW
        a = _own(rows, at, E)
        s = a * _sigmoid(a)
        delta = tl.where(inside[None, :, :], _own(rows + E, at, E), 0.0)
        total += tl.sum(delta, axis=2)
        decay = tl.exp2(_inner(delta) * rates)
        new = _inner(delta * s) * _same(rows + 2 * E, at, N, Q, E)
        for t in tl.static_range(T):
            h = _at(decay, t, T) * h + _at(new, t, T)
    where, exists = _slot(ends, 0, 1, total_chunks, N, Q, W, E)
    tl.store(where, h, mask=exists)
    chunk = (tl.program_id(0) * W + tl.arange(0, W)).to(tl.int64)[None, :]
    tl.store(sums + chunk * E + tl.arange(0, E)[:, None], total, mask=chunk < total_chunks)
    _hold(sums, fetched | ahead, length, E)


@triton.jit(do_not_specialize=["num_chunks", "chunk_size", "batch", "num_models", "stride"])
def carry(
    locals_, sums, A_log, first, last, starts, num_chunks, chunk_size, batch, num_models, stride,
    E: tl.constexpr, N: tl.constexpr, Q: tl.constexpr, BLOCK: tl.constexpr, T: tl.constexpr,
    REVERSE: tl.constexpr, HAS_FIRST: tl.constexpr, HAS_STARTS: tl.constexpr,
):  # fmt: skip
    """Replace each chunk's own contribution by what comes into it, from `first` to `last`.

    `first` and `last` are `(B, E, N)`, the chunks' states `(B, chunks, N / Q, E, Q)`. Forward, `locals_` are
    ends from zero and become starts. Backward, they are adjoints of starts and become adjoints of ends.
    """
    blocks: tl.constexpr = E * N // BLOCK
    item = (tl.program_id(0) // blocks).to(tl.int64)
    state = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    e = (state // Q) % E
    n = state // (E * Q) * Q + state % Q
    outside = (item * E + e) * N + n
    model = item // batch
    A_log += _shift(model, stride)
    rate = -tl.exp2(tl.load(A_log + e * N + n) * LOG2E) * LOG2E
    h = tl.zeros((BLOCK,), tl.float32)
    if HAS_FIRST:
        h = tl.load(first + outside)
    steps = tl.arange(0, T)
    begin = 0
    end = num_chunks
    if HAS_STARTS:
        missing = tl.load(starts + num_models + model) // chunk_size
        if REVERSE:
            end -= missing
        else:
            begin += missing
    while begin < end:
        order = begin + steps
        chunk = order
        if REVERSE:
            chunk = num_chunks - 1 - order
        exists = (order < end)[None, :]
        at = (item * num_chunks + chunk)[None, :]
        where = locals_ + at * (N * E) + state[:, None]
        local = tl.load(where, mask=exists, other=0.0)
        decay = tl.exp2(tl.load(sums + at * E + e[:, None], mask=exists, other=0.0) * rate[:, None])
        incoming = tl.zeros_like(local)
        for t in tl.static_range(T):
            here = (steps == t)[None, :]
            incoming = tl.where(here, h[:, None], incoming)
            h = tl.sum(tl.where(here, decay, 0.0), axis=1) * h + tl.sum(tl.where(here, local, 0.0), axis=1)
        tl.store(where, incoming, mask=exists)
        begin += T
    tl.store(last + outside, h)


@triton.jit(do_not_specialize=["length", "num_chunks", "total_chunks", "batch", "num_models", "stride"])
def outputs(
    tokens, rows, out, states, tile_starts, gated, slopes, A_log, D, out_proj, starts,
    length, num_chunks, total_chunks, batch, num_models, stride,
    DM: tl.constexpr, E: tl.constexpr, N: tl.constexpr, R: tl.constexpr, Q: tl.constexpr,
    T: tl.constexpr, W: tl.constexpr, TILES: tl.constexpr, HAS_TAPE: tl.constexpr,
    HAS_STARTS: tl.constexpr,
):  # fmt: skip
    """Write tokens + block output.

    With `HAS_TAPE` also the state at the start of each tile, and per token y times gate, which W_out
    multiplies, and its derivative by z. What a tile reads late is fetched first: no read overtakes a write.
    """
    ROW: tl.constexpr = 3 * E + 2 * N + 4
    model = _model(num_chunks, batch)
    if HAS_STARTS:  # noqa: SIM102 (the compiler decides this one)
        if _left_out(starts, model, num_models, num_chunks, TILES * T):
            return
    shift = _shift(model, stride)
    A_log, D, out_proj = A_log + shift, D + shift, out_proj + shift
    rates = _rates(A_log, N, Q, E, W)
    where, exists = _slot(states, 0, 1, total_chunks, N, Q, W, E)
    h = tl.load(where, mask=exists, other=0.0)
    d = tl.arange(0, DM)
    w_out = tl.load(out_proj + d[:, None] * E + tl.arange(0, E)[None, :])
    fetched = tl.zeros((E, W, 1), tl.int32)
    fetched_x = tl.zeros((E, W, 1), tl.int32)
    for tile in tl.range(TILES, num_stages=1):
        fetched |= _fetch(
            rows, tile, length, num_chunks, total_chunks, 2 * E + N, N, ROW, T, W, TILES, E, False
        )
        fetched_x |= _fetch(tokens, tile, length, num_chunks, total_chunks, 0, DM, DM, T, W, TILES, E, True)
        places, inside = _row_places(tile, length, num_chunks, total_chunks, TILES, T, W)
        at = places * ROW
        a = _own(rows, at, E)
        z = _own(rows + 2 * E + 2 * N + 4, at, E)
        s = a * _sigmoid(a)
        delta = _own(rows + E, at, E)
        decay = tl.exp2(_inner(delta) * rates)
        new = _inner(delta * s) * _same(rows + 2 * E, at, N, Q, E)
        if HAS_TAPE:
            where, exists = _slot(tile_starts, tile, TILES, total_chunks, N, Q, W, E)
            tl.store(where, h, mask=exists)
        history = tl.zeros((E, W, T, N // Q, Q), tl.float32)
        steps = tl.arange(0, T)[None, None, :, None, None]
        for t in tl.static_range(T):
            h = _at(decay, t, T) * h + _at(new, t, T)
            history = tl.where(steps == t, h[:, :, None, :, :], history)
        y = _sum_inner(history * _same(rows + 2 * E + N, at, N, Q, E)) + _channel(D, E, 1) * s
        sig_z = _sigmoid(z)
        gate = z * sig_z
        v = y * gate
        if HAS_TAPE:
            own = tl.multiple_of(places[None, :, :] * E + tl.arange(0, E)[:, None, None], [1, 1, 1])
            real = tl.broadcast_to(inside[None, :, :], v.shape)
            tl.store(gated + own, v, mask=real)
            tl.store(slopes + own, y * (sig_z + gate * (1.0 - sig_z)), mask=real)
        block = tl.trans(_dot_in_parts(w_out, tl.trans(_flat(v, T, W, E))))
        place = tl.reshape(places, (W * T,))[:, None] * DM + d[None, :]
        real = tl.reshape(inside, (W * T,))[:, None]
        x = tl.load(tokens + place, mask=real, other=0.0)
        tl.store(out + place, x + block, mask=real)
    _hold(out, fetched | fetched_x, length, E)
