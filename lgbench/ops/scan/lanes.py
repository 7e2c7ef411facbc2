"""Triton kernel of the forward scan with several lanes a channel, for 16 states and many channels.

A program is W warps; each has 32 / P channels, lane l channel l // P and the Q = N / P states from (l %
P)·Q on. So a batch of a few sequences fills the chip without cutting time into chunks, which saves the pass
that sums chunks up. Tensors over lanes are `(32, W)`, over states too `(Q, 32, W)`: in this order of axes
the compiler gives each thread whole columns.

What is the same for all states of a channel (softplus, gate, the rows of x, Δ, z, y) is spread over its
lanes by time: of P steps, lane l has step l % P, and hands it to the others by shuffles. Sums over states
are exchanged so that a lane ends with the sum of its own step. A tile is TILE steps, a multiple of P: a
tuple of such vectors. Names are those of `scan_triton_forward`.

While a tile is computed, B and C of the next one and the rows of the one after it are read, and Δ and the
gate of the next one are made ready, so that its recurrence waits for nothing when its turn comes. Tiles
take turns in pairs, and nothing is copied between registers. The branches around the reads are there
because the compiler would else put them off to where they are needed.
"""

import triton
import triton.language as tl

from lgbench.ops.scan.backward import fold
from lgbench.ops.scan.forward import LOG2E, SIZES, per_channel, softplus
from lgbench.ops.scan.tiles import pick, sigmoid

POINTERS = ("x", "delta", "z", "out", "A", "D", "delta_bias", "mask", "h0", "saved")


@triton.jit(do_not_specialize=SIZES, do_not_specialize_on_alignment=POINTERS)
def forward_lanes_kernel(
    x, delta, z, out, B, C, A, D, delta_bias, mask, h0, state, saved, length, mask_stride,
    E: tl.constexpr, N: tl.constexpr, P: tl.constexpr, W: tl.constexpr, TILE: tl.constexpr,
    XS: tl.constexpr, DS: tl.constexpr, ZS: tl.constexpr, BS: tl.constexpr, CS: tl.constexpr,
    SOFTPLUS: tl.constexpr,
):  # fmt: skip
    """Outputs and last states of one block of channels.

    B and C are bfloat16, with each lane's part of a row at a multiple of its size.
    saved `(B, ceil(L / (2 TILE)), N, E)`: the states before every other tile, for the backward.
    """
    BLOCKS: tl.constexpr = (E * P + 32 * W - 1) // (32 * W)
    RAGGED: tl.constexpr = E % (32 // P * W) != 0
    block = tl.program_id(0) % BLOCKS
    item = (tl.program_id(0) // BLOCKS).to(tl.int64)
    lane = tl.broadcast_to(tl.arange(0, 32)[:, None], [32, W])
    own = lane % P
    e = (block * W + tl.arange(0, W)[None, :]) * (32 // P) + lane // P
    n = (own * (N // P))[None, :, :] + tl.arange(0, N // P)[:, None, None]
    cell = e[None, :, :] * N + n
    here = (e < E)[None, :, :]
    A2 = tl.load(A + cell, mask=here, other=0.0).to(tl.float32) * LOG2E
    bias, skip = per_channel(delta_bias, e, E), per_channel(D, e, E)
    h = tl.zeros([N // P, 32, W], tl.float32)
    if h0 is not None:
        h = tl.load(h0 + item * (E * N) + cell, mask=here, other=0.0).to(tl.float32)
    first, mask_at = item * length, item * mask_stride
    full = length // (2 * TILE) * (2 * TILE)
    t = 0
    if t < full:
        rows = _load_rows(
            x, delta, z, mask, mask_at, first, t, length, own, e, E, P, TILE, XS, DS, ZS, RAGGED
        )
        rows_far = _load_rows(
            x, delta, z, mask, mask_at, first, t + TILE, length, own, e, E, P, TILE, XS, DS, ZS, RAGGED
        )
        near = _load_states(B, C, first, t, length, own, N, P, TILE, BS, CS, False)
        far = near
        ready = _prepare(rows, z, skip, bias, mask, t, length, own, P, TILE, SOFTPLUS, False)
        while t < full:
            if t + TILE < full:  # always
                far = _load_states(B, C, first, t + TILE, length, own, N, P, TILE, BS, CS, False)
                rows = _load_rows(
                    x, delta, z, mask, mask_at, first, tl.minimum(t + 2 * TILE, full - TILE), length, own, e,
                    E, P, TILE, XS, DS, ZS, RAGGED,
                )  # fmt: skip
            if saved is not None:
                _save(saved, h, item, t, length, own, e, E, N, N // P, 2 * TILE)
            ready_far = _prepare(rows_far, z, skip, bias, mask, t, length, own, P, TILE, SOFTPLUS, False)
            h = _tile(h, ready, near, out, A2, first, t, length, lane, own, e, E, P, TILE, RAGGED)
            t += TILE
            if t + TILE < full:
                near = _load_states(B, C, first, t + TILE, length, own, N, P, TILE, BS, CS, False)
                rows_far = _load_rows(
                    x, delta, z, mask, mask_at, first, t + 2 * TILE, length, own, e,
                    E, P, TILE, XS, DS, ZS, RAGGED,
                )  # fmt: skip
            ready = _prepare(rows, z, skip, bias, mask, t, length, own, P, TILE, SOFTPLUS, False)
            h = _tile(h, ready_far, far, out, A2, first, t, length, lane, own, e, E, P, TILE, RAGGED)
            t += TILE
    while t < length:
        rows = _load_rows(x, delta, z, mask, mask_at, first, t, length, own, e, E, P, TILE, XS, DS, ZS, True)
        near = _load_states(B, C, first, t, length, own, N, P, TILE, BS, CS, True)
        if saved is not None:  # noqa: SIM102 (decided at compile time, the inner one at run time)
            if t == full:
                _save(saved, h, item, t, length, own, e, E, N, N // P, 2 * TILE)
        ready = _prepare(rows, z, skip, bias, mask, t, length, own, P, TILE, SOFTPLUS, True)
        h = _tile(h, ready, near, out, A2, first, t, length, lane, own, e, E, P, TILE, True)
        t += TILE
    tl.store(state + item * (E * N) + cell, h, mask=here)


@triton.jit
def _save(
    saved, h, item, t, length, own, e,
    E: tl.constexpr, N: tl.constexpr, Q: tl.constexpr, EVERY: tl.constexpr,
):  # fmt: skip
    """Write the states of a lane one after the other; a store of all would first move them between lanes."""
    index = tl.arange(0, Q)[:, None, None]
    at = saved + (item * tl.cdiv(length, EVERY) + t // EVERY) * (N * E) + own * (Q * E) + e
    for j in tl.static_range(Q):
        tl.store(at + j * E, pick(h, index, j), mask=e < E)


@triton.jit
def _load_rows(
    x, delta, z, mask, mask_at, first, t, length, own, e,
    E: tl.constexpr, P: tl.constexpr, TILE: tl.constexpr,
    XS: tl.constexpr, DS: tl.constexpr, ZS: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """The rows of a tile and its mask, in their own types; x stands for a missing z or mask."""
    xs = _load_steps(x, first, t, length, own, e, E, P, TILE, XS, MASKED)
    raw = _load_steps(delta, first, t, length, own, e, E, P, TILE, DS, MASKED)
    zs, keeps = xs, xs
    if z is not None:
        zs = _load_steps(z, first, t, length, own, e, E, P, TILE, ZS, MASKED)
    if mask is not None:
        keeps = ()
        for i in tl.static_range(TILE // P):
            step = t + i * P + own
            keeps = keeps + (tl.load(mask + mask_at + step, mask=step < length, other=0),)  # noqa: RUF005
    return xs, raw, zs, keeps


@triton.jit
def _load_steps(
    pointer, first, t, length, own, e,
    E: tl.constexpr, P: tl.constexpr, TILE: tl.constexpr, STRIDE: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """TILE rows of a `(B·L, E)` array, P steps a vector."""
    values = ()
    at = pointer + (first + t) * STRIDE + (own * STRIDE + e)
    for i in tl.static_range(TILE // P):
        if MASKED:
            ok = (t + i * P + own < length) & (e < E)
            values = values + (tl.load(at + i * P * STRIDE, mask=ok, other=0.0),)  # noqa: RUF005
        else:
            values = values + (tl.load(at + i * P * STRIDE),)  # noqa: RUF005
    return values


@triton.jit
def _load_states(
    B, C, first, t, length, own,
    N: tl.constexpr, P: tl.constexpr, TILE: tl.constexpr, BS: tl.constexpr, CS: tl.constexpr,
    TAIL: tl.constexpr,
):  # fmt: skip
    """TILE rows of B and of C, of each a lane's own states, in pairs: tuples of int32 `(Q / 2, 32, W)`."""
    pair = (own * (N // P // 2))[None, :, :] + tl.arange(0, N // P // 2)[:, None, None]
    B_at = B.to(tl.pointer_type(tl.int32)) + (first + t) * (BS // 2) + pair
    C_at = C.to(tl.pointer_type(tl.int32)) + (first + t) * (CS // 2) + pair
    Bs, Cs = (), ()
    for k in tl.static_range(TILE):
        if TAIL:
            Bs = Bs + (tl.load(B_at + k * (BS // 2), mask=t + k < length, other=0),)  # noqa: RUF005
            Cs = Cs + (tl.load(C_at + k * (CS // 2), mask=t + k < length, other=0),)  # noqa: RUF005
        else:
            Bs = Bs + (tl.load(B_at + k * (BS // 2)),)  # noqa: RUF005
            Cs = Cs + (tl.load(C_at + k * (CS // 2)),)  # noqa: RUF005
    return Bs, Cs


@triton.jit
def _widen(pairs):
    """Pairs of bfloat16 as float32 `(Q, 32, W)`, with one instruction a number."""
    low = (pairs << 16).to(tl.float32, bitcast=True)
    high = (pairs & -65536).to(tl.float32, bitcast=True)
    both = tl.permute(tl.join(low, high), [0, 3, 1, 2])
    return tl.reshape(both, [2 * pairs.shape[0], pairs.shape[1], pairs.shape[2]])


@triton.jit
def _prepare(
    rows, z, skip, bias, mask, t, length, own,
    P: tl.constexpr, TILE: tl.constexpr, SOFTPLUS: tl.constexpr, TAIL: tl.constexpr,
):  # fmt: skip
    """Of each own step: Δ, Δ x, and the gate and what is added after it: y is gate · (h C) + added."""
    xs, raw, zs, keeps = rows
    dts, dtxs, gates, added = (), (), (), ()
    for i in tl.static_range(TILE // P):
        dt = raw[i].to(tl.float32) + bias
        if SOFTPLUS:
            dt = softplus(dt)
        if TAIL:
            dt = tl.where(t + i * P + own < length, dt, 0.0)
        if mask is not None:
            dt = tl.where(keeps[i] != 0, dt, 0.0)
        xi = xs[i].to(tl.float32)
        gate = tl.full(xi.shape, 1.0, tl.float32)
        if z is not None:
            zi = zs[i].to(tl.float32)
            gate = zi * sigmoid(zi)
        dts, dtxs = dts + (dt,), dtxs + (dt * xi,)  # noqa: RUF005
        gates, added = gates + (gate,), added + (skip * xi * gate,)  # noqa: RUF005
    return dts, dtxs, gates, added


@triton.jit
def _tile(
    h, ready, states, out, A2, first, t, length, lane, own, e,
    E: tl.constexpr, P: tl.constexpr, TILE: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """TILE steps from t on: writes the outputs, returns the state after them."""
    Bs, Cs = states
    dts, dtxs, gates, added = ready
    for i in tl.static_range(TILE // P):
        sums = ()
        for k in tl.static_range(P):
            decay = tl.exp2(_handed(dts[i], lane, own, k) * A2)
            h = decay * h + _handed(dtxs[i], lane, own, k) * _widen(Bs[i * P + k])
            sums = sums + (tl.sum(h * _widen(Cs[i * P + k]), 0),)  # noqa: RUF005
        y = fold(sums, lane, P, P // 2) * gates[i] + added[i]
        at = out + (first + t + i * P) * E + (own * E + e)
        if MASKED:
            ok = (t + i * P + own < length) & (e < E)
            tl.store(at, y.to(out.dtype.element_ty), mask=ok)
        else:
            tl.store(at, y.to(out.dtype.element_ty))
    return h


@triton.jit
def _handed(values, lane, own, k: tl.constexpr):
    """What the lane of a channel that has step k holds, for all lanes of the channel and all their states."""
    return tl.gather(values, lane - own + k, 0)[None, :, :]
