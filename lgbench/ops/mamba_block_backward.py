"""Triton kernels of the fused Mamba block, backward: adjoints of the chunks, then all gradients.

    chunk_adjoints   adjoint of each chunk's start, with nothing coming from later chunks
    gradients        gradient of the tokens; of each weight, one partial sum per program
    add_rows         the sum of the partial sums

Between the first two runs `carry` of `mamba_block_forward`, from the last chunk to the first. The forward
kept the state at the start of each tile; the others are computed again.

Sizes: B batch, L length, DM d_model, E d_inner, N d_state, R dt_rank; Q = min(N, 4). A warp takes a chunk of
a sequence, a program `W`; a chunk is `TILES` tiles of `T` tokens, laid out as `mamba_block_tiles` says.
"""

import triton
import triton.language as tl

from lgbench.ops.mamba_block_tiles import (
    FAR_BELOW,
    LOG2E,
    _at,
    _channel,
    _dot,
    _dot_in_parts,
    _fetch,
    _flat,
    _hold,
    _inner,
    _own,
    _packed,
    _places,
    _rates,
    _row_places,
    _same,
    _sigmoid,
    _slot,
    _softplus_slope,
    _sum_channels,
    _sum_inner,
)


@triton.jit(do_not_specialize=["length", "num_chunks", "total_chunks"])
def chunk_adjoints(
    rows, packed, grad_out, adjoints, A_log, length, num_chunks, total_chunks,
    DM: tl.constexpr, E: tl.constexpr, N: tl.constexpr, R: tl.constexpr, Q: tl.constexpr,
    T: tl.constexpr, W: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """Write the adjoint of the state at the start of each chunk, from the chunk's own outputs alone."""
    ROW: tl.constexpr = 3 * E + 2 * N + 4
    READ: tl.constexpr = ROW - E
    rates = _rates(A_log, N, Q, E, W)
    g = tl.zeros((E, W, N // Q, Q), tl.float32)
    d = tl.arange(0, DM)
    e = tl.arange(0, E)
    w_out = tl.load(packed + (d // 4 * (E * 4) + d % 4)[None, :] + e[:, None] * 4)
    last = TILES - 1
    ahead = _fetch(rows, last, length, num_chunks, total_chunks, E, READ, ROW, T, W, TILES, E, False)
    ahead_grad = _fetch(grad_out, last, length, num_chunks, total_chunks, 0, DM, DM, T, W, TILES, E, True)
    fetched, fetched_grad = ahead, ahead_grad
    for back in tl.range(TILES, num_stages=1):
        tile = TILES - 1 - back
        fetched |= ahead
        fetched_grad |= ahead_grad
        upcoming = tl.maximum(tile - 1, 0)
        ahead = _fetch(rows, upcoming, length, num_chunks, total_chunks, E, READ, ROW, T, W, TILES, E, False)
        ahead_grad = _fetch(
            grad_out, upcoming, length, num_chunks, total_chunks, 0, DM, DM, T, W, TILES, E, True
        )
        places, inside = _row_places(tile, length, num_chunks, total_chunks, TILES, T, W)
        at = places * ROW
        z = tl.where(inside[None, :, :], _own(rows + 2 * E + 2 * N + 4, at, E), FAR_BELOW)
        place = tl.reshape(places, (W * T,))[:, None] * DM + d[None, :]
        grad_x = tl.load(grad_out + place, mask=tl.reshape(inside, (W * T,))[:, None], other=0.0)
        grad_v = tl.reshape(_dot_in_parts(w_out, tl.trans(grad_x)), (E, W, T))
        # each channel takes its own number: this only keeps the compiler from laying out z as the product
        grad_v = tl.gather(grad_v, tl.broadcast_to(e[:, None, None], grad_v.shape), 0)
        delta = tl.where(inside[None, :, :], _own(rows + E, at, E), 0.0)
        decay = tl.exp2(_inner(delta) * rates)
        pushed = _inner(grad_v * z * _sigmoid(z)) * _same(rows + 2 * E + N, at, N, Q, E)
        for back_t in tl.static_range(T):
            g = _at(decay, T - 1 - back_t, T) * (g + _at(pushed, T - 1 - back_t, T))
    where, exists = _slot(adjoints, 0, 1, total_chunks, N, Q, W, E)
    tl.store(where, g, mask=exists)
    _hold(adjoints, fetched | ahead, length, E)
    _hold(adjoints, fetched_grad | ahead_grad, length, E)


@triton.jit(do_not_specialize=["length", "num_chunks", "total_chunks"])
def gradients(
    tokens, rows, packed, grad_out, grad_tokens, tile_starts, adjoints, partials,
    norm_weight, in_proj, x_proj, dt_weight, A_log, D, eps,
    length, num_chunks, total_chunks,
    DM: tl.constexpr, E: tl.constexpr, N: tl.constexpr, R: tl.constexpr, Q: tl.constexpr,
    T: tl.constexpr, W: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """Write the gradient of the tokens and this program's share of each weight's gradient.

    A row of `partials` holds the weights flat, in the order of `Weights`.
    """
    ROW: tl.constexpr = 3 * E + 2 * N + 4
    NQ: tl.constexpr = N // Q
    rates = _rates(A_log, N, Q, E, W)
    where, exists = _slot(adjoints, 0, 1, total_chunks, N, Q, W, E)
    g = tl.load(where, mask=exists, other=0.0)
    d = tl.arange(0, DM)
    e = tl.arange(0, E)
    by_d = e[:, None] * DM + d[None, :]
    sum_norm = tl.zeros((W * T, DM), tl.float32)
    sum_a = tl.zeros((E, DM), tl.float32)
    sum_z = tl.zeros((E, DM), tl.float32)
    sum_out = tl.zeros((E, DM), tl.float32)
    sum_b = tl.zeros((E, W, NQ, Q), tl.float32)
    sum_c = tl.zeros((E, W, NQ, Q), tl.float32)
    sum_rates = tl.zeros((E, W, NQ, Q), tl.float32)
    sum_bias = tl.zeros((E, W), tl.float32)
    sum_skip = tl.zeros((E, W), tl.float32)
    sum_tau1 = tl.zeros((E, W), tl.float32)
    sum_dt1 = tl.zeros((E, W), tl.float32)
    sum_tau2 = tl.zeros((E, W), tl.float32)
    sum_dt2 = tl.zeros((E, W), tl.float32)
    steps = tl.arange(0, T)[None, None, :, None, None]
    for back in tl.range(TILES, num_stages=1):
        tile = TILES - 1 - back
        places, inside = _places(tile, length, num_chunks, total_chunks, TILES, T, W)
        at = places * ROW
        a = _own(rows, at, E)
        z = tl.where(inside[None, :, :], _own(rows + 2 * E + 2 * N + 4, at, E), FAR_BELOW)
        sig_a = _sigmoid(a)
        sig_z = _sigmoid(z)
        s = a * sig_a
        gate = z * sig_z
        delta = tl.where(inside[None, :, :], _own(rows + E, at, E), 0.0)
        grad_v = _sum_inner(_same(grad_out, places * DM, DM, 4, E) * _packed(packed, DM, 4, E, W))
        dy = grad_v * gate

        decay = tl.exp2(_inner(delta) * rates)
        inputs = _inner(delta * s)
        b = _same(rows + 2 * E, at, N, Q, E)
        where, exists = _slot(tile_starts, tile, TILES, total_chunks, N, Q, W, E)
        h = tl.load(where, mask=exists, other=0.0)
        decayed = tl.zeros((E, W, T, NQ, Q), tl.float32)
        after = tl.zeros((E, W, T, NQ, Q), tl.float32)
        for t in tl.static_range(T):
            h = _at(decay, t, T) * h
            decayed = tl.where(steps == t, h[:, :, None, :, :], decayed)
            h += _at(inputs, t, T) * _at(b, t, T)
            after = tl.where(steps == t, h[:, :, None, :, :], after)
        c = _same(rows + 2 * E + N, at, N, Q, E)
        y = _sum_inner(after * c)
        grad_c = _sum_channels(after * _inner(dy), E, W, T, N, Q)
        pushed = _inner(dy) * c
        adjoint = tl.zeros((E, W, T, NQ, Q), tl.float32)
        for back_t in tl.static_range(T):
            g += _at(pushed, T - 1 - back_t, T)
            adjoint = tl.where(steps == T - 1 - back_t, g[:, :, None, :, :], adjoint)
            g = _at(decay, T - 1 - back_t, T) * g
        grad_b = _sum_channels(adjoint * inputs, E, W, T, N, Q)
        grad_input = _sum_inner(adjoint * b)
        through = adjoint * decayed
        sum_rates += tl.sum(through * _inner(delta), axis=2)
        grad_delta = _sum_inner(through * rates) / LOG2E + s * grad_input
        sum_b += tl.sum(grad_b * _inner(s), axis=2)
        sum_c += tl.sum(grad_c * _inner(s), axis=2)
        grad_s = delta * grad_input
        grad_s += _sum_inner(grad_b * _packed(packed + E * DM, N, Q, E, W))
        grad_s += _sum_inner(grad_c * _packed(packed + E * DM + N * E, N, Q, E, W))

        skip = _channel(D, E, 1)
        y += skip * s
        grad_s += skip * dy
        sum_skip += tl.sum(dy * s, axis=2)
        grad_pre = grad_delta * _softplus_slope(delta)
        tau = rows + 2 * E + 2 * N + at[None, :, :]
        sum_bias += tl.sum(grad_pre, axis=2)
        grad_tau = tl.sum(grad_pre * _channel(dt_weight, E, R), axis=0)[None, :, :]
        grad_s += grad_tau * _channel(x_proj, E, 1)
        sum_tau1 += tl.sum(grad_tau * s, axis=2)
        sum_dt1 += tl.sum(grad_pre * tl.load(tau), axis=2)
        if R == 2:
            grad_tau = tl.sum(grad_pre * _channel(dt_weight + 1, E, R), axis=0)[None, :, :]
            grad_s += grad_tau * _channel(x_proj + E, E, 1)
            sum_tau2 += tl.sum(grad_tau * s, axis=2)
            sum_dt2 += tl.sum(grad_pre * tl.load(tau + 1), axis=2)
        grad_a = grad_s * (sig_a + s * (1.0 - sig_a))
        grad_z = grad_v * y * (sig_z + gate * (1.0 - sig_z))

        place = tl.reshape(places, (W * T,))[:, None] * DM + d[None, :]
        grad_x = tl.load(grad_out + place)
        sum_out += _dot(tl.trans(_flat(y * gate, T, W, E)), grad_x)
        x = tl.load(tokens + place)
        scale = tl.rsqrt(tl.sum(x * x, axis=1) / DM + eps)[:, None]
        unit = x * scale
        gain = tl.load(norm_weight + d)[None, :]
        sum_a += _dot(tl.trans(_flat(grad_a, T, W, E)), unit * gain)
        sum_z += _dot(tl.trans(_flat(grad_z, T, W, E)), unit * gain)
        grad_u = _dot(_flat(grad_a, T, W, E), tl.load(in_proj + by_d))
        grad_u += _dot(_flat(grad_z, T, W, E), tl.load(in_proj + E * DM + by_d))
        sum_norm += grad_u * unit
        grad_unit = grad_u * gain
        mean = tl.sum(grad_unit * unit, axis=1)[:, None] / DM
        grad_x += scale * (grad_unit - unit * mean)
        tl.store(grad_tokens + place, grad_x, mask=tl.reshape(inside, (W * T,))[:, None])

    row = partials + tl.program_id(0).to(tl.int64) * (DM + 3 * DM * E + (2 * R + 3 * N + 2) * E)
    tl.store(row + d, tl.sum(sum_norm, axis=0))
    row += DM
    tl.store(row + by_d, sum_a)
    tl.store(row + E * DM + by_d, sum_z)
    row += 2 * E * DM
    by_n = tl.arange(0, NQ)[None, :, None] * Q + tl.arange(0, Q)[None, None, :]
    tl.store(row + e, tl.sum(sum_tau1, axis=1))
    if R == 2:
        tl.store(row + E + e, tl.sum(sum_tau2, axis=1))
    tl.store(row + R * E + by_n * E + e[:, None, None], tl.sum(sum_b, axis=1))
    tl.store(row + (R + N) * E + by_n * E + e[:, None, None], tl.sum(sum_c, axis=1))
    row += (R + 2 * N) * E
    tl.store(row + e * R, tl.sum(sum_dt1, axis=1))
    if R == 2:
        tl.store(row + e * R + 1, tl.sum(sum_dt2, axis=1))
    row += R * E
    tl.store(row + e, tl.sum(sum_bias, axis=1))
    row += E
    rates3 = tl.sum(tl.sum(_rates(A_log, N, Q, E, 1), axis=1), axis=1) / LOG2E
    tl.store(row + e[:, None, None] * N + by_n, tl.sum(sum_rates, axis=1) * rates3)
    row += E * N
    tl.store(row + e, tl.sum(sum_skip, axis=1))
    row += E
    tl.store(row + d[None, :] * E + e[:, None], sum_out)


@triton.jit(do_not_specialize=["num_rows", "num_columns"])
def add_rows(partials, total, num_rows, num_columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Add the rows of `partials`, always in the same order."""
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    exists = column < num_columns
    sums = tl.zeros((ROWS, COLUMNS), tl.float32)
    begin = 0
    while begin < num_rows:
        row = begin + tl.arange(0, ROWS)
        where = partials + row.to(tl.int64)[:, None] * num_columns + column[None, :]
        sums += tl.load(where, mask=(row < num_rows)[:, None] & exists[None, :], other=0.0)
        begin += ROWS
    tl.store(total + column, tl.sum(sums, axis=0), mask=exists)
