"""Triton kernel of the forward scan with several lanes a channel, for 16 states and enough channels.

A program is W warps; each has 32 / P channels, lane l channel l // P and the Q = N / P states from (l % P)·Q
on. So a batch of a few sequences fills the chip without cutting time into chunks, which saves the pass that
sums chunks up, and B and C are read where they are used. Tensors over lanes are `(32, W)`, over states too
`(Q, 32, W)`: in this order of axes the compiler gives each thread whole columns.

What is the same for all states of a channel (softplus, gate, the rows of x, Δ, z, y) is spread over its lanes
by time: of P steps, lane l has step l % P, and hands it to the others by shuffles. Sums over states are
exchanged so that a lane ends with the sum of its own step. A tile is TILE steps, a multiple of P: a tuple of
such vectors. The names are those of `scan_triton_forward`.
"""

import triton
import triton.language as tl

from lgbench.ops.scan_triton_backward import fold
from lgbench.ops.scan_triton_forward import LOG2E, SIZES, softplus

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
    Two tiles take turns: one is read while the other is computed, and nothing is copied between registers.
    The branches around the reads are there because the compiler would else put them off to where they are
    needed.
    """
    BLOCKS: tl.constexpr = (E * P + 32 * W - 1) // (32 * W)
    block = tl.program_id(0) % BLOCKS
    item = (tl.program_id(0) // BLOCKS).to(tl.int64)
    lane = tl.broadcast_to(tl.arange(0, 32)[:, None], [32, W])
    own = lane % P
    e = (block * W + tl.arange(0, W)[None, :]) * (32 // P) + lane // P
    n = (own * (N // P))[None, :, :] + tl.arange(0, N // P)[:, None, None]
    cell = e[None, :, :] * N + n
    here = (e < E)[None, :, :]
    A2 = tl.load(A + cell, mask=here, other=0.0).to(tl.float32) * LOG2E
    bias, skip = _of_channel(delta_bias, e, E), _of_channel(D, e, E)
    h = tl.zeros([N // P, 32, W], tl.float32)
    if h0 is not None:
        h = tl.load(h0 + item * (E * N) + cell, mask=here, other=0.0).to(tl.float32)
    kept = saved
    if saved is not None:
        kept = saved + item * tl.cdiv(length, 2 * TILE) * (N * E) + own * (N // P * E) + e
    first, mask_at = item * length, item * mask_stride
    full = length // (2 * TILE) * (2 * TILE)
    t = 0
    if t < full:
        near = _load(
            x, delta, z, B, C, mask, mask_at, first, t, length, own, e,
            E, N, P, W, TILE, XS, DS, ZS, BS, CS, False,
        )  # fmt: skip
        while t < full:
            far = near
            if t + TILE < full:  # always
                far = _load(
                    x, delta, z, B, C, mask, mask_at, first, t + TILE, length, own, e,
                    E, N, P, W, TILE, XS, DS, ZS, BS, CS, False,
                )  # fmt: skip
            if kept is not None:
                _keep(kept + (t // (2 * TILE)).to(tl.int64) * (N * E), h, e, E, N // P)
            h = _tile(
                h, near, z, out, A2, D, skip, bias, mask, first, t, length, lane, own, e,
                E, P, W, TILE, SOFTPLUS, False,
            )  # fmt: skip
            t += TILE
            if t + TILE < full:
                near = _load(
                    x, delta, z, B, C, mask, mask_at, first, t + TILE, length, own, e,
                    E, N, P, W, TILE, XS, DS, ZS, BS, CS, False,
                )  # fmt: skip
            h = _tile(
                h, far, z, out, A2, D, skip, bias, mask, first, t, length, lane, own, e,
                E, P, W, TILE, SOFTPLUS, False,
            )  # fmt: skip
            t += TILE
    while t < length:
        near = _load(
            x, delta, z, B, C, mask, mask_at, first, t, length, own, e,
            E, N, P, W, TILE, XS, DS, ZS, BS, CS, True,
        )  # fmt: skip
        if kept is not None:  # noqa: SIM102 (decided at compile time, the inner one at run time)
            if t == full:
                _keep(kept + (t // (2 * TILE)).to(tl.int64) * (N * E), h, e, E, N // P)
        h = _tile(
            h, near, z, out, A2, D, skip, bias, mask, first, t, length, lane, own, e,
            E, P, W, TILE, SOFTPLUS, True,
        )  # fmt: skip
        t += TILE
    tl.store(state + item * (E * N) + cell, h, mask=here)


@triton.jit
def _of_channel(pointer, e, E: tl.constexpr):
    """A `(E,)` parameter as float32, zero where there is none."""
    values = tl.zeros(e.shape, tl.float32)
    if pointer is not None:
        values = tl.load(pointer + e, mask=e < E, other=0.0).to(tl.float32)
    return values


@triton.jit
def _keep(pointers, h, e, E: tl.constexpr, Q: tl.constexpr):
    """Write the states of a lane one after the other; a store of all would first move them between lanes."""
    state = tl.arange(0, Q)[:, None, None]
    for j in tl.static_range(Q):
        bits = tl.sum(tl.where(state == j, h.to(tl.int32, bitcast=True), 0), 0)
        tl.store(pointers + j * E, bits.to(tl.float32, bitcast=True), mask=e < E)


@triton.jit
def _load(
    x, delta, z, B, C, mask, mask_at, first, t, length, own, e,
    E: tl.constexpr, N: tl.constexpr, P: tl.constexpr, W: tl.constexpr, TILE: tl.constexpr,
    XS: tl.constexpr, DS: tl.constexpr, ZS: tl.constexpr, BS: tl.constexpr, CS: tl.constexpr,
    TAIL: tl.constexpr,
):  # fmt: skip
    """Everything that a tile reads, in its own types; x stands for a missing z or mask."""
    xs = _load_steps(x, first, t, length, own, e, E, P, W, TILE, XS, TAIL)
    raw = _load_steps(delta, first, t, length, own, e, E, P, W, TILE, DS, TAIL)
    zs, keeps = xs, xs
    if z is not None:
        zs = _load_steps(z, first, t, length, own, e, E, P, W, TILE, ZS, TAIL)
    if mask is not None:
        keeps = ()
        for i in tl.static_range(TILE // P):
            step = t + i * P + own
            keeps = keeps + (tl.load(mask + mask_at + step, mask=step < length, other=0),)  # noqa: RUF005
    Bs = _load_states(B, first, t, length, own, N // P, TILE, BS, TAIL)
    Cs = _load_states(C, first, t, length, own, N // P, TILE, CS, TAIL)
    return xs, raw, zs, Bs, Cs, keeps


@triton.jit
def _load_steps(
    pointer, first, t, length, own, e, E: tl.constexpr, P: tl.constexpr, W: tl.constexpr, TILE: tl.constexpr,
    STRIDE: tl.constexpr, TAIL: tl.constexpr,
):  # fmt: skip
    """TILE rows of a `(B·L, E)` array, P steps a vector."""
    values = ()
    at = pointer + (first + t) * STRIDE + (own * STRIDE + e)
    for i in tl.static_range(TILE // P):
        if TAIL or E % (32 // P * W) != 0:
            ok = (t + i * P + own < length) & (e < E)
            values = values + (tl.load(at + i * P * STRIDE, mask=ok, other=0.0),)  # noqa: RUF005
        else:
            values = values + (tl.load(at + i * P * STRIDE),)  # noqa: RUF005
    return values


@triton.jit
def _load_states(
    pointer,
    first,
    t,
    length,
    own,
    Q: tl.constexpr,
    TILE: tl.constexpr,
    STRIDE: tl.constexpr,
    TAIL: tl.constexpr,
):
    """TILE rows of B or C, of each a lane's own states, in pairs: a tuple of int32 `(Q / 2, 32, W)`."""
    values = ()
    pair = (own * (Q // 2))[None, :, :] + tl.arange(0, Q // 2)[:, None, None]
    at = pointer.to(tl.pointer_type(tl.int32)) + (first + t) * (STRIDE // 2) + pair
    for k in tl.static_range(TILE):
        if TAIL:
            values = values + (tl.load(at + k * (STRIDE // 2), mask=t + k < length, other=0),)  # noqa: RUF005
        else:
            values = values + (tl.load(at + k * (STRIDE // 2)),)  # noqa: RUF005
    return values


@triton.jit
def _widen(pairs):
    """Pairs of bfloat16 as float32 `(Q, 32, W)`, with one instruction a number."""
    low = (pairs << 16).to(tl.float32, bitcast=True)
    high = (pairs & -65536).to(tl.float32, bitcast=True)
    both = tl.permute(tl.join(low, high), [0, 3, 1, 2])
    return tl.reshape(both, [2 * pairs.shape[0], pairs.shape[1], pairs.shape[2]])


@triton.jit
def _tile(
    h, loaded, z, out, A2, D, skip, bias, mask, first, t, length, lane, own, e,
    E: tl.constexpr, P: tl.constexpr, W: tl.constexpr, TILE: tl.constexpr, SOFTPLUS: tl.constexpr,
    TAIL: tl.constexpr,
):  # fmt: skip
    """TILE steps from t on: writes the outputs, returns the state after them."""
    xs, raw, zs, Bs, Cs, keeps = loaded
    for i in tl.static_range(TILE // P):
        step = t + i * P + own
        dt = raw[i].to(tl.float32) + bias
        if SOFTPLUS:
            dt = softplus(dt)
        if TAIL:
            dt = tl.where(step < length, dt, 0.0)
        if mask is not None:
            dt = tl.where(keeps[i] != 0, dt, 0.0)
        xi = xs[i].to(tl.float32)
        dtx = dt * xi
        sums = ()
        for k in tl.static_range(P):
            decay = tl.exp2(_handed(dt, lane, own, k) * A2)
            h = decay * h + _handed(dtx, lane, own, k) * _widen(Bs[i * P + k])
            sums = sums + (tl.sum(h * _widen(Cs[i * P + k]), 0),)  # noqa: RUF005
        y = fold(sums, lane, P, P // 2)
        if D is not None:
            y += skip * xi
        if z is not None:
            zi = zs[i].to(tl.float32)
            root = tl.rsqrt(1.0 + tl.exp2(-LOG2E * zi))
            y *= zi * (root * root)
        at = out + (first + t + i * P) * E + (own * E + e)
        if TAIL or E % (32 // P * W) != 0:
            tl.store(at, y.to(out.dtype.element_ty), mask=(step < length) & (e < E))
        else:
            tl.store(at, y.to(out.dtype.element_ty))
    return h


@triton.jit
def _handed(values, lane, own, k: tl.constexpr):
    """What the lane of a channel that has step k holds, for all lanes of the channel and all their states."""
    return tl.gather(values, lane - own + k, 0)[None, :, :]
