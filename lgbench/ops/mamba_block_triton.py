"""Triton kernels of the fused Mamba block: projected once, then scanned in pieces that fill the chip.

A sequence is cut into chunks, and these into tiles of `T` tokens. A warp takes a chunk, a program `W`.

    forward    prepare          per token a row: a, z, raw Δ, u, B, C, τ
               chunk_ends       state at the end of each chunk, started from zero, and ΣΔ of the chunk
               carry            start of each chunk = exp(A ΣΔ) · start of the one before + its end
               outputs          scan from the true start, gate, projection back, residual
    backward   chunk_adjoints   adjoint of each chunk's start, with nothing coming from later chunks
               carry            the same recurrence, from the last chunk to the first
               gradients        gradient of the tokens; of each weight, one partial sum per program
               add_rows         the sum of the partial sums

States are never written per token: the one at the start of each tile is kept for the backward, the others are
computed again. Partial sums are added in a fixed order, without atomics: a result repeats bit for bit.

Sizes: B batch, L length, DM d_model, E d_inner, N d_state, R dt_rank; Q = min(N, 4). Tiles are `[E, W, T]`
or `[E, W, T, K / Q, Q]`: channels lie across the lanes of a warp, everything else inside a thread, so that a
step of the recurrence and the sum over states exchange nothing between threads. All accesses to memory are
shaped so that the compiler chooses this layout everywhere: an odd order of axes serves that, and so does a
hint that denies wide accesses where they would give a thread several channels.
Source: our own; the recurrence is that of Gu and Dao, arXiv:2312.00752.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

LOG2E = tl.constexpr(1.4426950408889634)
FAR_BELOW = tl.constexpr(-1e30)


@triton.jit
def _sigmoid(x):
    root = tl.rsqrt(1.0 + tl.exp2(-x * LOG2E))
    return root * root


@triton.jit
def _softplus(x):
    """log(1 + exp(x)) to 2e-7 of itself for every x; the polynomial is log(1 + u) / u on [0, 1]."""
    u = tl.exp2(-tl.abs(x) * LOG2E)
    p = -0.13663246 + u * (0.07822595 + u * (-0.02950523 + u * 0.00523269))
    p = 0.99999994 + u * (-0.49999493 + u * (0.33319098 + u * (-0.24842982 + u * (0.19106008 + u * p))))
    return tl.maximum(x, 0.0) + u * p


@triton.jit
def _dot(a, b):
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def _at(tile, t: tl.constexpr, T: tl.constexpr):
    """Time step `t` of a tile. Time lies inside a thread and whole zeros add for free: nothing moves."""
    bits = tl.where(tl.arange(0, T)[None, None, :, None, None] == t, tile.to(tl.int32, bitcast=True), 0)
    return tl.sum(bits, axis=2).to(tl.float32, bitcast=True)


@triton.jit
def _pick(tail, j: tl.constexpr):
    """Entry `j` of the four in the last axis, which lies inside a thread."""
    bits = tl.where(tl.arange(0, 4)[None, None, None, :] == j, tail.to(tl.int32, bitcast=True), 0)
    return tl.sum(bits, axis=3).to(tl.float32, bitcast=True)


@triton.jit
def _places(tile, length, num_chunks, total_chunks, TILES: tl.constexpr, T: tl.constexpr, W: tl.constexpr):
    """Places of a tile's tokens among all, `[W, T]` (beyond the end that of the last), and which exist."""
    chunk = tl.program_id(0) * W + tl.arange(0, W)
    exists = chunk < total_chunks
    chunk = tl.minimum(chunk, total_chunks - 1)
    step = ((chunk % num_chunks) * TILES + tile)[:, None] * T + tl.arange(0, T)[None, :]
    place = (chunk // num_chunks).to(tl.int64)[:, None] * length + tl.minimum(step, length - 1)
    return place, (step < length) & exists[:, None]


@triton.jit
def _same(ptr, at, K: tl.constexpr, Q: tl.constexpr, E: tl.constexpr, AGAIN: tl.constexpr = False):
    """`K` numbers of each token, the same for all channels: `[E, W, T, K // Q, Q]`.

    `AGAIN` loads anew what was loaded before in the same tile, which is cheaper than registers to keep it in.
    """
    k = tl.arange(0, K // Q)[:, None] * Q + tl.arange(0, Q)[None, :]
    where = (ptr + at)[None, :, :, None, None] + k[None, None, None, :, :]
    where += tl.zeros((E,), tl.int32)[:, None, None, None, None]
    return tl.load(where, cache_modifier=".ca" if AGAIN else "")


@triton.jit
def _packed(ptr, K: tl.constexpr, Q: tl.constexpr, E: tl.constexpr, W: tl.constexpr):
    """Weights that `prepare` has laid out `[K // Q, E, Q]`, as `[E, W, 1, K // Q, Q]`, alike in W."""
    k = tl.arange(0, K // Q)[:, None] * (E * Q) + tl.arange(0, Q)[None, :]
    e = tl.arange(0, E)[:, None, None, None, None] * Q + tl.zeros((W,), tl.int32)[None, :, None, None, None]
    return tl.load(ptr + e + k[None, None, None, :, :])


@triton.jit
def _pack(ptr, packed, SK: tl.constexpr, SE: tl.constexpr, K: tl.constexpr, Q: tl.constexpr, E: tl.constexpr):
    """Lay weights out for `_packed`."""
    k = tl.arange(0, K)[None, :]
    e = tl.arange(0, E)[:, None]
    tl.store(packed + k // Q * (E * Q) + e * Q + k % Q, tl.load(ptr + k * SK + e * SE))


@triton.jit
def _sum_inner(tile):
    """Sum over the last two axes: `[E, W, T]`."""
    return tl.sum(tl.sum(tile, axis=4), axis=3)


@triton.jit
def _inner(tile):
    """`[E, W, T]` → `[E, W, T, 1, 1]`."""
    return tile[:, :, :, None, None]


@triton.jit
def _slot(ptr, slot, slots, total_chunks, N: tl.constexpr, Q: tl.constexpr, W: tl.constexpr, E: tl.constexpr):
    """Pointers `[E, W, N // Q, Q]` to one of the `slots` states of each chunk, and which chunks exist."""
    chunk = (tl.program_id(0) * W + tl.arange(0, W)).to(tl.int64)
    n = tl.arange(0, N // Q)[:, None] * (E * Q) + tl.arange(0, Q)[None, :]
    where = ptr + ((chunk * slots + slot) * (N * E))[None, :, None, None] + n[None, None, :, :]
    where += (tl.arange(0, E) * Q)[:, None, None, None]
    return where, tl.broadcast_to((chunk < total_chunks)[None, :, None, None], where.shape)


@triton.jit
def _channel(ptr, E: tl.constexpr, STRIDE: tl.constexpr):
    return tl.load(ptr + tl.arange(0, E) * STRIDE)[:, None, None]


@triton.jit
def _rates(A_log, N: tl.constexpr, Q: tl.constexpr, E: tl.constexpr, W: tl.constexpr):
    """A · log2(e), `[E, W, 1, N // Q, Q]`, alike in W: `exp2` of it times Δ is the decay."""
    n = tl.arange(0, N // Q)[:, None] * Q + tl.arange(0, Q)[None, :]
    e = tl.arange(0, E)[:, None, None, None, None] * N + tl.zeros((W,), tl.int32)[None, :, None, None, None]
    return -tl.exp2(tl.load(A_log + e + n[None, None, None, :, :]) * LOG2E) * LOG2E


@triton.jit
def _own(ptr, at, E: tl.constexpr):
    """A number of each token and channel: `[E, W, T]`."""
    where = at[None, :, :] + tl.arange(0, E)[:, None, None]
    return tl.load(ptr + tl.multiple_of(where, [1, 1, 1]))


@triton.jit
def _flat(tile, T: tl.constexpr, W: tl.constexpr, E: tl.constexpr):
    """`[E, W, T]` → `[W * T, E]`."""
    return tl.reshape(tl.permute(tile, (1, 2, 0)), (W * T, E))


@triton.jit(do_not_specialize=["length", "num_tokens", "mask_stride"])
def prepare(
    tokens, rows, packed, norm_weight, in_proj, x_proj, dt_weight, dt_bias, out_proj, mask, eps,
    length, num_tokens, mask_stride,
    DM: tl.constexpr, E: tl.constexpr, N: tl.constexpr, R: tl.constexpr, Q: tl.constexpr,
    M: tl.constexpr, HAS_MASK: tl.constexpr,
):  # fmt: skip
    """Write for each token a row: a, z, Δ before the softplus (`[E]` each), u, B, C, and τ.

    A token that is not real gets z and Δ so far below zero that gate, Δ and their derivatives are exactly 0.
    Also copy W_out and the part of W_x for B and C to `packed`, as the other kernels like to read them.
    """
    ROW: tl.constexpr = 3 * E + DM + 2 * N + 4
    if tl.program_id(0) == 0:
        _pack(out_proj, packed, E, 1, DM, 4, E)
        _pack(x_proj + R * E, packed + E * DM, E, 1, N, Q, E)
        _pack(x_proj + (R + N) * E, packed + E * DM + N * E, E, 1, N, Q, E)
    token = tl.program_id(0).to(tl.int64) * M + tl.arange(0, M)
    inside = token < num_tokens
    d = tl.arange(0, DM)
    e = tl.arange(0, E)
    n = tl.arange(0, 2 * N)
    x = tl.load(tokens + token[:, None] * DM + d[None, :], mask=inside[:, None], other=0.0)
    u = x * tl.rsqrt(tl.sum(x * x, axis=1) / DM + eps)[:, None] * tl.load(norm_weight + d)[None, :]
    # the hints make the compiler keep the matrices with outputs along the banks of shared memory
    w_in = tl.load(in_proj + tl.max_contiguous(e[:, None] * DM + d[None, :], [1, 1]))
    w_bc = tl.load(x_proj + R * E + tl.max_contiguous(n[:, None] * E + e[None, :], [1, 1]))
    w_z = tl.load(in_proj + E * DM + tl.max_contiguous(e[:, None] * DM + d[None, :], [1, 1]))
    a = _dot(u, tl.trans(w_in))
    z = _dot(u, tl.trans(w_z))
    s = a * _sigmoid(a)
    bc = _dot(s, tl.trans(w_bc))
    real = inside
    if HAS_MASK:
        flags = mask + (token // length) * mask_stride + token % length
        real = tl.load(flags, mask=inside, other=0) != 0
    j = tl.arange(0, 4)[None, :]
    tail = tl.zeros((M, 4), tl.float32)
    pre = tl.zeros_like(s) + tl.load(dt_bias + e)[None, :]
    for r in tl.static_range(R):
        tau = tl.sum(s * tl.load(x_proj + r * E + e)[None, :], axis=1)
        tail = tl.where(j == r, tau[:, None], tail)
        pre += tau[:, None] * tl.load(dt_weight + e * R + r)[None, :]
    row = rows + token[:, None] * ROW
    tl.store(row + e[None, :], a, mask=inside[:, None])
    tl.store(row + E + e[None, :], tl.where(real[:, None], z, FAR_BELOW), mask=inside[:, None])
    tl.store(row + 2 * E + e[None, :], tl.where(real[:, None], pre, FAR_BELOW), mask=inside[:, None])
    tl.store(row + 3 * E + d[None, :], u, mask=inside[:, None])
    tl.store(row + 3 * E + DM + n[None, :], bc, mask=inside[:, None])
    tl.store(row + 3 * E + DM + 2 * N + j, tail, mask=inside[:, None])


@triton.jit(do_not_specialize=["length", "num_chunks", "total_chunks"])
def chunk_ends(
    rows, ends, sums, A_log, length, num_chunks, total_chunks,
    DM: tl.constexpr, E: tl.constexpr, N: tl.constexpr, R: tl.constexpr, Q: tl.constexpr,
    T: tl.constexpr, W: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """Write the state at the end of each chunk, started from zero, and ΣΔ of each chunk."""
    ROW: tl.constexpr = 3 * E + DM + 2 * N + 4
    rates = _rates(A_log, N, Q, E, W)
    h = tl.zeros((E, W, N // Q, Q), tl.float32)
    total = tl.zeros((E, W), tl.float32)
    for tile in range(TILES):
        places, inside = _places(tile, length, num_chunks, total_chunks, TILES, T, W)
        at = places * ROW
        a = _own(rows, at, E)
        s = a * _sigmoid(a)
        delta = _softplus(tl.where(inside[None, :, :], _own(rows + 2 * E, at, E), FAR_BELOW))
        total += tl.sum(delta, axis=2)
        decay = tl.exp2(_inner(delta) * rates)
        new = _inner(delta * s) * _same(rows + 3 * E + DM, at, N, Q, E)
        for t in tl.static_range(T):
            h = _at(decay, t, T) * h + _at(new, t, T)
    where, exists = _slot(ends, 0, 1, total_chunks, N, Q, W, E)
    tl.store(where, h, mask=exists)
    chunk = (tl.program_id(0) * W + tl.arange(0, W)).to(tl.int64)[None, :]
    tl.store(sums + chunk * E + tl.arange(0, E)[:, None], total, mask=chunk < total_chunks)


@triton.jit(do_not_specialize=["num_chunks"])
def carry(
    locals_, sums, A_log, first, last, num_chunks,
    E: tl.constexpr, N: tl.constexpr, Q: tl.constexpr, BLOCK: tl.constexpr, T: tl.constexpr,
    REVERSE: tl.constexpr, HAS_FIRST: tl.constexpr,
):  # fmt: skip
    """Replace each chunk's own contribution by what comes into it, from `first` to `last`.

    `first` and `last` are `(B, E, N)`, the chunks' states `(B, chunks, N / Q, E, Q)`. Forward, `locals_` are
    ends from zero and become starts. Backward, they are adjoints of starts and become adjoints of ends.
    """
    item = tl.program_id(0).to(tl.int64)
    state = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    e = (state // Q) % E
    n = state // (E * Q) * Q + state % Q
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
        exists = (order < num_chunks)[None, :]
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


@triton.jit(do_not_specialize=["length", "num_chunks", "total_chunks"])
def outputs(
    tokens, rows, out, starts, tile_starts, A_log, D, out_proj,
    length, num_chunks, total_chunks,
    DM: tl.constexpr, E: tl.constexpr, N: tl.constexpr, R: tl.constexpr, Q: tl.constexpr,
    T: tl.constexpr, W: tl.constexpr, TILES: tl.constexpr, HAS_TAPE: tl.constexpr,
):  # fmt: skip
    """Write tokens + block output; with `HAS_TAPE` also the state at the start of each tile."""
    ROW: tl.constexpr = 3 * E + DM + 2 * N + 4
    rates = _rates(A_log, N, Q, E, W)
    where, exists = _slot(starts, 0, 1, total_chunks, N, Q, W, E)
    h = tl.load(where, mask=exists, other=0.0)
    d = tl.arange(0, DM)[None, :]
    for tile in range(TILES):
        places, inside = _places(tile, length, num_chunks, total_chunks, TILES, T, W)
        at = places * ROW
        a = _own(rows, at, E)
        z = _own(rows + E, at, E)
        s = a * _sigmoid(a)
        delta = _softplus(_own(rows + 2 * E, at, E))
        decay = tl.exp2(_inner(delta) * rates)
        new = _inner(delta * s) * _same(rows + 3 * E + DM, at, N, Q, E)
        if HAS_TAPE:
            where, exists = _slot(tile_starts, tile, TILES, total_chunks, N, Q, W, E)
            tl.store(where, h, mask=exists)
        states = tl.zeros((E, W, T, N // Q, Q), tl.float32)
        steps = tl.arange(0, T)[None, None, :, None, None]
        for t in tl.static_range(T):
            h = _at(decay, t, T) * h + _at(new, t, T)
            states = tl.where(steps == t, h[:, :, None, :, :], states)
        y = _sum_inner(states * _same(rows + 3 * E + DM + N, at, N, Q, E)) + _channel(D, E, 1) * s
        v = _flat(y * z * _sigmoid(z), T, W, E)
        block = _dot(v, tl.load(out_proj + tl.arange(0, E)[:, None] + d * E))
        place = tl.reshape(places, (W * T,))[:, None] * DM + d
        x = tl.load(tokens + place)
        tl.store(out + place, x + block, mask=tl.reshape(inside, (W * T,))[:, None])


@triton.jit(do_not_specialize=["length", "num_chunks", "total_chunks"])
def chunk_adjoints(
    rows, packed, grad_out, adjoints, A_log, length, num_chunks, total_chunks,
    DM: tl.constexpr, E: tl.constexpr, N: tl.constexpr, R: tl.constexpr, Q: tl.constexpr,
    T: tl.constexpr, W: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """Write the adjoint of the state at the start of each chunk, from the chunk's own outputs alone."""
    ROW: tl.constexpr = 3 * E + DM + 2 * N + 4
    rates = _rates(A_log, N, Q, E, W)
    g = tl.zeros((E, W, N // Q, Q), tl.float32)
    for back in range(TILES):
        tile = TILES - 1 - back
        places, inside = _places(tile, length, num_chunks, total_chunks, TILES, T, W)
        at = places * ROW
        z = tl.where(inside[None, :, :], _own(rows + E, at, E), FAR_BELOW)
        grad_v = _sum_inner(_same(grad_out, places * DM, DM, 4, E) * _packed(packed, DM, 4, E, W))
        delta = _softplus(tl.where(inside[None, :, :], _own(rows + 2 * E, at, E), FAR_BELOW))
        decay = tl.exp2(_inner(delta) * rates)
        pushed = _inner(grad_v * z * _sigmoid(z)) * _same(rows + 3 * E + DM + N, at, N, Q, E)
        for back_t in tl.static_range(T):
            g = _at(decay, T - 1 - back_t, T) * (g + _at(pushed, T - 1 - back_t, T))
    where, exists = _slot(adjoints, 0, 1, total_chunks, N, Q, W, E)
    tl.store(where, g, mask=exists)


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
    ROW: tl.constexpr = 3 * E + DM + 2 * N + 4
    KD: tl.constexpr = DM // 4
    NQ: tl.constexpr = N // Q
    rates = _rates(A_log, N, Q, E, W)
    where, exists = _slot(adjoints, 0, 1, total_chunks, N, Q, W, E)
    g = tl.load(where, mask=exists, other=0.0)
    d = tl.arange(0, DM)
    e = tl.arange(0, E)
    sum_norm = tl.zeros((W * T, DM), tl.float32)
    sum_a = tl.zeros((E, W, KD, 4), tl.float32)
    sum_z = tl.zeros((E, W, KD, 4), tl.float32)
    sum_out = tl.zeros((E, W, KD, 4), tl.float32)
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
    for back in range(TILES):
        tile = TILES - 1 - back
        places, inside = _places(tile, length, num_chunks, total_chunks, TILES, T, W)
        at = places * ROW
        a = _own(rows, at, E)
        z = tl.where(inside[None, :, :], _own(rows + E, at, E), FAR_BELOW)
        sig_a = _sigmoid(a)
        sig_z = _sigmoid(z)
        s = a * sig_a
        gate = z * sig_z
        pre = tl.where(inside[None, :, :], _own(rows + 2 * E, at, E), FAR_BELOW)
        delta = _softplus(pre)
        grad_v = _sum_inner(_same(grad_out, places * DM, DM, 4, E) * _packed(packed, DM, 4, E, W))
        dy = grad_v * gate

        decay = tl.exp2(_inner(delta) * rates)
        inputs = _inner(delta * s)
        b = _same(rows + 3 * E + DM, at, N, Q, E)
        where, exists = _slot(tile_starts, tile, TILES, total_chunks, N, Q, W, E)
        h = tl.load(where, mask=exists, other=0.0)
        decayed = tl.zeros((E, W, T, NQ, Q), tl.float32)
        after = tl.zeros((E, W, T, NQ, Q), tl.float32)
        for t in tl.static_range(T):
            h = _at(decay, t, T) * h
            decayed = tl.where(steps == t, h[:, :, None, :, :], decayed)
            h += _at(inputs, t, T) * _at(b, t, T)
            after = tl.where(steps == t, h[:, :, None, :, :], after)
        c = _same(rows + 3 * E + DM + N, at, N, Q, E)
        y = _sum_inner(after * c)
        grad_c = tl.sum(after * _inner(dy), axis=0)[None, :, :, :, :]
        pushed = _inner(dy) * c
        adjoint = tl.zeros((E, W, T, NQ, Q), tl.float32)
        for back_t in tl.static_range(T):
            g += _at(pushed, T - 1 - back_t, T)
            adjoint = tl.where(steps == T - 1 - back_t, g[:, :, None, :, :], adjoint)
            g = _at(decay, T - 1 - back_t, T) * g
        grad_b = tl.sum(adjoint * inputs, axis=0)[None, :, :, :, :]
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
        grad_pre = grad_delta * _sigmoid(pre)
        tail = tl.sum(_same(rows + 3 * E + DM + 2 * N, at, 4, 4, E), axis=3)
        sum_bias += tl.sum(grad_pre, axis=2)
        grad_tau = tl.sum(grad_pre * _channel(dt_weight, E, R), axis=0)[None, :, :]
        grad_s += grad_tau * _channel(x_proj, E, 1)
        sum_tau1 += tl.sum(grad_tau * s, axis=2)
        sum_dt1 += tl.sum(grad_pre * _pick(tail, 0), axis=2)
        if R == 2:
            grad_tau = tl.sum(grad_pre * _channel(dt_weight + 1, E, R), axis=0)[None, :, :]
            grad_s += grad_tau * _channel(x_proj + E, E, 1)
            sum_tau2 += tl.sum(grad_tau * s, axis=2)
            sum_dt2 += tl.sum(grad_pre * _pick(tail, 1), axis=2)
        grad_a = grad_s * (sig_a + s * (1.0 - sig_a))
        grad_z = grad_v * y * (sig_z + gate * (1.0 - sig_z))
        sum_out += tl.sum(_inner(y * gate) * _same(grad_out, places * DM, DM, 4, E, AGAIN=True), axis=2)
        u = _same(rows + 3 * E, at, DM, 4, E)
        sum_a += tl.sum(_inner(grad_a) * u, axis=2)
        sum_z += tl.sum(_inner(grad_z) * u, axis=2)

        wide = tl.load(in_proj + e[:, None] * DM + d[None, :])
        grad_u = _dot(_flat(grad_a, T, W, E), wide)
        grad_u += _dot(_flat(grad_z, T, W, E), tl.load(in_proj + E * DM + e[:, None] * DM + d[None, :]))
        place = tl.reshape(places, (W * T,))[:, None] * DM + d[None, :]
        x = tl.load(tokens + place)
        scale = tl.rsqrt(tl.sum(x * x, axis=1) / DM + eps)[:, None]
        unit = x * scale
        sum_norm += grad_u * unit
        grad_unit = grad_u * tl.load(norm_weight + d)[None, :]
        mean = tl.sum(grad_unit * unit, axis=1)[:, None] / DM
        grad_x = tl.load(grad_out + place) + scale * (grad_unit - unit * mean)
        tl.store(grad_tokens + place, grad_x, mask=tl.reshape(inside, (W * T,))[:, None])

    row = partials + tl.program_id(0).to(tl.int64) * (DM + 3 * DM * E + (2 * R + 3 * N + 2) * E)
    tl.store(row + d, tl.sum(sum_norm, axis=0))
    row += DM
    by_k = e[:, None, None] * DM + tl.arange(0, KD)[None, :, None] * 4 + tl.arange(0, 4)[None, None, :]
    tl.store(row + by_k, tl.sum(sum_a, axis=1))
    tl.store(row + E * DM + by_k, tl.sum(sum_z, axis=1))
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
    by_d = (tl.arange(0, KD)[None, :, None] * 4 + tl.arange(0, 4)[None, None, :]) * E + e[:, None, None]
    by_d = tl.multiple_of(by_d, [1, 1, 1])
    tl.store(row + by_d, tl.sum(sum_out, axis=1))


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
    """Chunks, and warps, in one program of `gradients`: more of them mean fewer partial sums. 1 elsewhere."""
    registers_scan: int
    """In `chunk_ends` and `chunk_adjoints`."""
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
    registers = (64, 128, 255) if small else (128, 255, 255)
    return Plan(tile, num_tiles, num_chunks, batch * num_chunks, 4, *registers)


class Tape(NamedTuple):
    """What `forward` leaves for `backward`."""

    packed: Tensor
    """W_in, W_out and the part of W_x for B and C, each `[K / Q, E, Q]`."""
    rows: Tensor
    """Per token: u, B, C, 1 if real, τ; `(B * L, DM + 2 N + 4)`."""
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
        new(batch * length, 3 * d_inner + d_model + 2 * d_state + 4),
        new(cut.total_chunks, d_inner),
        new(cut.total_chunks * cut.num_tiles if keep else 0, d_inner * d_state),
    )
    states = new(cut.total_chunks, d_inner * d_state)
    last, out = new(batch, d_inner, d_state), torch.empty_like(tokens)
    flags = tokens if mask is None else mask.view(torch.uint8)
    prepare[(triton.cdiv(batch * length, 64),)](
        tokens, tape.rows, tape.packed,
        w.norm_weight, w.in_proj, w.x_proj, w.dt_weight, w.dt_bias, w.out_proj, flags, eps,
        length, batch * length, length if flags.shape == (batch, length) else 0,
        **sizes, Q=min(4, d_state), M=64, HAS_MASK=mask is not None, num_warps=4, num_stages=1, maxnreg=128,
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
