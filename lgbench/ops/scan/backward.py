"""Triton kernels of the backward scan: summaries of the adjoint, then all gradients of a chunk.

With g_t the gradient of h_t C_t and G_t that of h_t, r_t = exp(Δ_t A) G_t is the gradient of h_{t-1}, so

    G_t = r_{t+1} + C_t g_t           dC_t = Σ_e g_t h_t
    dB_t = Σ_e Δ_t x_t G_t            dA = Σ_t Δ_t r_t h_{t-1}
    dx_t = Δ_t Σ_n G_t B_t + D g_t    dΔ_t = x_t Σ_n G_t B_t + Σ_n A r_t h_{t-1}

One warp, a lane a channel, as in `scan_triton_forward`, whose names hold here too. Only every SAVE-th state
was kept: a stretch of SAVE steps is first run forward to the start of each tile, then its tiles are taken
from the last to the first, each recomputing its states in registers. All its tiles are masked: a second copy
without masks would save 5 % of the instructions and take twice as long to compile.
"""

import triton
import triton.language as tl

from lgbench.ops.scan.forward import (
    LOG2E,
    SIZES,
    enter,
    forward_tile,
    inside,
    load_forward,
    load_packed,
    load_rows,
    per_channel,
    row,
    sigmoid,
    store_rows,
    time_step,
    unpack,
)

POINTERS = (
    "x", "delta", "z", "grad", "B", "C", "A", "D", "delta_bias", "mask", "saved", "summary", "grad_state",
    "scratch",
    "dx", "ddelta", "dz", "dBC", "small", "dh0",
)  # fmt: skip


@triton.jit(do_not_specialize=SIZES, do_not_specialize_on_alignment=POINTERS)
def adjoint_summary_kernel(
    delta, z, grad, C, A, delta_bias, mask, summary, length, chunk_length, num_chunks, mask_stride,
    E: tl.constexpr, N: tl.constexpr, NP: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr,
    DS: tl.constexpr, ZS: tl.constexpr, GS: tl.constexpr, CS: tl.constexpr, SOFTPLUS: tl.constexpr,
):  # fmt: skip
    """What each chunk but the first adds to the gradient of the state before it, and ΣΔ in row N."""
    BLOCKS: tl.constexpr = (E + BLOCK - 1) // BLOCK
    program = tl.program_id(0)
    chunk = 1 + (program // BLOCKS) % (num_chunks - 1)
    item = (program // BLOCKS // (num_chunks - 1)).to(tl.int64)
    lane = tl.arange(0, BLOCK)
    e = (program % BLOCKS) * BLOCK + lane
    n = tl.arange(0, NP)[:, None]
    here = (e[None, :] < E) & (n < N)
    step = tl.arange(0, TILE)[:, None]
    A2 = tl.load(A + e[None, :] * N + n, mask=here, other=0.0).to(tl.float32) * LOG2E
    bias = per_channel(delta_bias, e, E)
    r = tl.zeros([NP, BLOCK], tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    first, mask_at = item * length, item * mask_stride
    begin = chunk * chunk_length
    end = tl.minimum(begin + chunk_length, length)
    full = begin + (end - begin) // TILE * TILE
    if full < end:
        raw, gs, zs, Cs = _load_adjoint(
            delta, grad, z, C, first, full, length, step, e, lane, E, N, NP, BLOCK, TILE, DS, GS, ZS, CS, True
        )
        r, total = _adjoint_tile(
            r, total, raw, gs, zs, Cs, z, A2, bias, mask, mask_at, full, length, step, n,
            NP, TILE, SOFTPLUS, True,
        )  # fmt: skip
    if begin < full:
        t = full - TILE
        raw, gs, zs, Cs = _load_adjoint(
            delta, grad, z, C, first, t, length, step, e, lane, E, N, NP, BLOCK, TILE, DS, GS, ZS, CS, False
        )
        while t >= begin:
            raw_next, g_next, z_next, C_next = _load_adjoint(
                delta, grad, z, C, first, tl.maximum(t - TILE, begin), length, step, e, lane,
                E, N, NP, BLOCK, TILE, DS, GS, ZS, CS, False,
            )  # fmt: skip
            r, total = _adjoint_tile(
                r, total, raw, gs, zs, Cs, z, A2, bias, mask, mask_at, t, length, step, n,
                NP, TILE, SOFTPLUS, False,
            )  # fmt: skip
            raw, gs, zs, Cs = raw_next, g_next, z_next, C_next
            t -= TILE
    at = summary + (item * num_chunks + chunk) * ((N + 1) * E)
    tl.store(at + n * E + e[None, :], r, mask=here)
    tl.store(at + N * E + e, total, mask=e < E)


@triton.jit
def _load_adjoint(
    delta, grad, z, C, first, t, length, step, e, lane,
    E: tl.constexpr, N: tl.constexpr, NP: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr,
    DS: tl.constexpr, GS: tl.constexpr, ZS: tl.constexpr, CS: tl.constexpr, TAIL: tl.constexpr,
):  # fmt: skip
    MASKED: tl.constexpr = TAIL or E % BLOCK != 0
    ok = inside(t, step, length, e, E, BLOCK, TILE)
    raw = load_rows(delta, first + t, DS, step, e, ok, MASKED)
    gs = load_rows(grad, first + t, GS, step, e, ok, MASKED)
    zs = load_rows(z, first + t, ZS, step, e, ok, MASKED) if z is not None else gs
    Cs = load_packed(C, first + t, CS, lane, t, length, N, NP, TILE, TAIL)
    return raw, gs, zs, Cs


@triton.jit
def _adjoint_tile(
    r, total, raw, gs, zs, Cs, z, A2, bias, mask, mask_at, t, length, step, n,
    NP: tl.constexpr, TILE: tl.constexpr, SOFTPLUS: tl.constexpr, TAIL: tl.constexpr,
):  # fmt: skip
    """r, the gradient of the state after a tile, becomes that of the state before it."""
    _, dt = time_step(raw, bias, mask, mask_at, t, length, step, SOFTPLUS, TAIL)
    gs, Cs = gs.to(tl.float32), Cs.to(tl.float32)
    if z is not None:
        zs = zs.to(tl.float32)
        gs *= zs * sigmoid(zs)
    for k in tl.static_range(TILE - 1, -1, -1):
        dtk = row(dt, step, k)
        r = tl.exp2(dtk[None, :] * A2) * (row(gs, step, k)[None, :] * unpack(Cs, k, n, NP, TILE) + r)
        total += dtk
    return r, total


@triton.jit(do_not_specialize=SIZES, do_not_specialize_on_alignment=POINTERS)
def backward_kernel(
    x, delta, z, grad, B, C, A, D, delta_bias, mask, saved, summary, grad_state, scratch,
    dx, ddelta, dz, dBC, small, dh0, length, chunk_length, num_chunks, batch, mask_stride,
    E: tl.constexpr, N: tl.constexpr, NP: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr, SAVE:
    tl.constexpr,
    XS: tl.constexpr, DS: tl.constexpr, ZS: tl.constexpr, GS: tl.constexpr, BS: tl.constexpr, CS:
    tl.constexpr,
    SOFTPLUS: tl.constexpr,
):  # fmt: skip
    """All gradients of one chunk of one block of channels.

    dBC `(2, blocks, B, L, N)`: parts of dB and dC, to be added over blocks. small `(B, num_chunks, (N + 2)
    E)`: parts of dA `(E, N)`, dD and the gradient of the bias, to be added over sequences and chunks.
    scratch: `SAVE // TILE` states `(NP, BLOCK)` for each program.
    """
    BLOCKS: tl.constexpr = (E + BLOCK - 1) // BLOCK
    program = tl.program_id(0)
    chunk = (program // BLOCKS) % num_chunks
    item = (program // BLOCKS // num_chunks).to(tl.int64)
    lane = tl.arange(0, BLOCK)
    e = (program % BLOCKS) * BLOCK + lane
    n = tl.arange(0, NP)[:, None]
    here = (e[None, :] < E) & (n < N)
    step = tl.arange(0, TILE)[:, None]
    A2 = tl.load(A + e[None, :] * N + n, mask=here, other=0.0).to(tl.float32) * LOG2E
    bias, skip = per_channel(delta_bias, e, E), per_channel(D, e, E)
    r = tl.zeros([NP, BLOCK], tl.float32)
    after = summary + (item * num_chunks + chunk + 1) * ((N + 1) * E) + n * E + e[None, :]
    r = enter(grad_state, after, chunk == num_chunks - 1, item, r, e, n, here, E, N)
    dA = tl.zeros([NP, BLOCK], tl.float32)
    dD, dbias = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    first, mask_at = item * length, item * mask_stride
    dB = dBC + (program % BLOCKS).to(tl.int64) * batch * length * N
    dC = dB + batch.to(tl.int64) * length * (BLOCKS * N)
    kept = scratch + program.to(tl.int64) * (SAVE // TILE * NP * BLOCK) + n * BLOCK + lane[None, :]
    begin = chunk * chunk_length
    end = tl.minimum(begin + chunk_length, length)
    low = begin + (end - 1 - begin) // SAVE * SAVE
    while low >= begin:
        high = tl.minimum(low + SAVE, end)
        stretch = item * tl.cdiv(length, SAVE) + low // SAVE
        h = tl.load(saved + stretch * (N * E) + n * E + e[None, :], mask=here, other=0.0)
        tl.store(kept, h)
        _keep_states(
            h, kept, x, delta, B, A2, bias, mask, mask_at, first, low, high, length, step, e, n, lane,
            E, N, NP, BLOCK, TILE, XS, DS, BS, SOFTPLUS,
        )  # fmt: skip
        tl.debug_barrier()
        t = low + (high - 1 - low) // TILE * TILE
        xs, raw, gs, zs, Bs, Cs = _load_backward(
            x, delta, grad, z, B, C, first, t, length, step, e, lane,
            E, N, NP, BLOCK, TILE, XS, DS, GS, ZS, BS, CS,
        )  # fmt: skip
        h = tl.load(kept + (t - low) // TILE * (NP * BLOCK))
        while t >= low:
            to = tl.maximum(t - TILE, low)
            x_next, raw_next, g_next, z_next, B_next, C_next = _load_backward(
                x, delta, grad, z, B, C, first, to, length, step, e, lane,
                E, N, NP, BLOCK, TILE, XS, DS, GS, ZS, BS, CS,
            )  # fmt: skip
            h_next = tl.load(kept + (to - low) // TILE * (NP * BLOCK))
            r, dA, dD, dbias = _backward_tile(
                h, r, dA, dD, dbias, xs, raw, gs, zs, Bs, Cs, z, A2, D, skip, bias, mask, mask_at,
                dx, ddelta, dz, dB, dC, first, t, length, step, e, n, lane, E, N, NP, BLOCK, TILE, SOFTPLUS,
            )  # fmt: skip
            h, xs, raw, gs, zs, Bs, Cs = h_next, x_next, raw_next, g_next, z_next, B_next, C_next
            t -= TILE
        tl.debug_barrier()
        low -= SAVE
    at = small + (item * num_chunks + chunk) * ((N + 2) * E)
    tl.store(at + e[None, :] * N + n, dA, mask=here)
    tl.store(at + N * E + e, dD, mask=e < E)
    tl.store(at + (N + 1) * E + e, dbias, mask=e < E)
    if dh0 is not None:  # noqa: SIM102 (decided at compile time, the inner one at run time)
        if chunk == 0:
            tl.store(dh0 + (item * E + e[None, :]) * N + n, r, mask=here)


@triton.jit
def _keep_states(
    h, kept, x, delta, B, A2, bias, mask, mask_at, first, low, high, length, step, e, n, lane,
    E: tl.constexpr, N: tl.constexpr, NP: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr,
    XS: tl.constexpr, DS: tl.constexpr, BS: tl.constexpr, SOFTPLUS: tl.constexpr,
):  # fmt: skip
    """Run forward from h, the state before `low`, and keep the state before each later tile."""
    if low + TILE < high:
        total = tl.zeros([BLOCK], tl.float32)
        xs, raw, zs, Bs, Cs = load_forward(
            x, delta, None, B, None, first, low, length, step, e, lane,
            E, N, NP, BLOCK, TILE, XS, DS, XS, BS, BS, False, False,
        )  # fmt: skip
        t = low
        last = low + (high - 1 - low) // TILE * TILE - TILE
        while t <= last:
            kept += NP * BLOCK
            x_next, raw_next, z_next, B_next, C_next = load_forward(
                x, delta, None, B, None, first, tl.minimum(t + TILE, last), length, step, e, lane,
                E, N, NP, BLOCK, TILE, XS, DS, XS, BS, BS, False, False,
            )  # fmt: skip
            h, total = forward_tile(
                h, total, xs, raw, zs, Bs, Cs, None, None, A2, None, bias, bias, mask, mask_at, first, t,
                length, step,
                e, n, E, NP, BLOCK, TILE, SOFTPLUS, False, False,
            )  # fmt: skip
            tl.store(kept, h)
            xs, raw, zs, Bs, Cs = x_next, raw_next, z_next, B_next, C_next
            t += TILE


@triton.jit
def _load_backward(
    x, delta, grad, z, B, C, first, t, length, step, e, lane,
    E: tl.constexpr, N: tl.constexpr, NP: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr,
    XS: tl.constexpr, DS: tl.constexpr, GS: tl.constexpr, ZS: tl.constexpr, BS: tl.constexpr, CS:
    tl.constexpr,
):  # fmt: skip
    ok = inside(t, step, length, e, E, BLOCK, TILE)
    xs = load_rows(x, first + t, XS, step, e, ok, True)
    Bs = load_packed(B, first + t, BS, lane, t, length, N, NP, TILE, True)
    raw, gs, zs, Cs = _load_adjoint(
        delta, grad, z, C, first, t, length, step, e, lane, E, N, NP, BLOCK, TILE, DS, GS, ZS, CS, True
    )
    return xs, raw, gs, zs, Bs, Cs


@triton.jit
def _backward_tile(
    h, r, dA, dD, dbias, xs, raw, gs, zs, Bs, Cs, z, A2, D, skip, bias, mask, mask_at, dx, ddelta, dz, dB, dC,
    first, t, length, step, e, n, lane,
    E: tl.constexpr, N: tl.constexpr, NP: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr,
    SOFTPLUS: tl.constexpr,
):  # fmt: skip
    """Gradients of one tile from h, the state before it, and r, the gradient of the state after it."""
    GROUP: tl.constexpr = 32 // NP
    v, dt = time_step(raw, bias, mask, mask_at, t, length, step, SOFTPLUS, True)
    xs, gs, Bs, Cs = xs.to(tl.float32), gs.to(tl.float32), Bs.to(tl.float32), Cs.to(tl.float32)
    if z is not None:
        zs = zs.to(tl.float32)
        gate = sigmoid(zs)
        upstream = gs
        gs = gs * zs * gate
    dtx = dt * xs
    position = first + t
    step3 = step[:, :, None]
    before = tl.zeros([TILE, NP, BLOCK], tl.float32)
    ys = tl.zeros([TILE, BLOCK], tl.float32)
    sums = ()
    for k in tl.static_range(TILE):
        before = tl.where(step3 == k, h[None, :, :], before)
        Bk = unpack(Bs, k, n, NP, TILE)
        h = tl.exp2(row(dt, step, k)[None, :] * A2) * h + row(dtx, step, k)[None, :] * Bk
        if z is not None:
            ys = tl.where(step == k, tl.sum(h * unpack(Cs, k, n, NP, TILE), 0)[None, :], ys)
        sums = sums + (_sum_over_channels(h * row(gs, step, k)[None, :], n, lane, NP),)  # noqa: RUF005
        if k % GROUP == GROUP - 1:
            _store_sums(dC, position, sums, k - (GROUP - 1), t, length, lane, N, NP, GROUP)
            sums = ()
    us = tl.zeros([TILE, BLOCK], tl.float32)
    ws = tl.zeros([TILE, BLOCK], tl.float32)
    for k in tl.static_range(TILE - 1, -1, -1):
        dtk = row(dt, step, k)
        G = row(gs, step, k)[None, :] * unpack(Cs, k, n, NP, TILE) + r
        r = tl.exp2(dtk[None, :] * A2) * G
        w = r * row(before, step3, k)
        dA += w * dtk[None, :]
        us = tl.where(step == k, tl.sum(G * unpack(Bs, k, n, NP, TILE), 0)[None, :], us)
        ws = tl.where(step == k, tl.sum(w * A2, 0)[None, :], ws)
        sums = (_sum_over_channels(G * row(dtx, step, k)[None, :], n, lane, NP),) + sums  # noqa: RUF005
        if k % GROUP == 0:
            _store_sums(dB, position, sums, k, t, length, lane, N, NP, GROUP)
            sums = ()
    dxs = dt * us
    dvs = xs * us + ws * (1.0 / LOG2E)
    if SOFTPLUS:
        dvs *= sigmoid(v)
    if mask is not None:
        keep = tl.load(mask + mask_at + t + step, mask=t + step < length, other=0)
        dvs = tl.where(keep != 0, dvs, 0.0)
    dvs = tl.where(t + step < length, dvs, 0.0)
    dbias += tl.sum(dvs, 0)
    if D is not None:
        dxs += skip[None, :] * gs
        ys += skip[None, :] * xs
        dD += tl.sum(gs * xs, 0)
    ok = inside(t, step, length, e, E, BLOCK, TILE)
    store_rows(dx, position, E, step, e, dxs, ok, True)
    store_rows(ddelta, position, E, step, e, dvs, ok, True)
    if z is not None:
        dzs = upstream * ys * gate * (1.0 + zs * (1.0 - gate))
        store_rows(dz, position, E, step, e, dzs, ok, True)
    return r, dA, dD, dbias


@triton.jit
def _sum_over_channels(tile, n, lane, NP: tl.constexpr):
    """Towards the sums of the rows of `(NP, 32)`: lane l gets a part of the sum of row l // (32 // NP).

    NP - 1 exchanges between lanes, where one reduction a row would take 5 NP; `_store_sums` does the rest.
    """
    values = ()
    for j in tl.static_range(NP):
        values = values + (row(tile, n, j),)  # noqa: RUF005
    return fold(values, lane, NP, 16)


@triton.jit
def fold(values, lane, COUNT: tl.constexpr, DISTANCE: tl.constexpr):
    """COUNT vectors over the lanes become one: each halving leaves a lane half of them, added in pairs."""
    if COUNT == 1:
        return values[0]
    else:
        halves = ()
        for j in tl.static_range(COUNT // 2):
            halves = halves + (_exchange(values[j], values[j + COUNT // 2], lane, DISTANCE),)  # noqa: RUF005
        return fold(halves, lane, COUNT // 2, DISTANCE // 2)


@triton.jit
def _exchange(low, high, lane, DISTANCE: tl.constexpr):
    """Lanes with a clear DISTANCE bit add up `low`, theirs and their partner's; the others `high`."""
    upper = (lane & DISTANCE) != 0
    keep, send = tl.where(upper, high, low), tl.where(upper, low, high)
    return keep + tl.gather(send, lane ^ DISTANCE, 0)


@triton.jit
def _store_sums(
    pointer, position, sums, k: tl.constexpr, t, length, lane,
    N: tl.constexpr, NP: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Finish the sums over channels of GROUP steps from k on, a number a lane, and write them."""
    total = fold(sums, lane, GROUP, GROUP // 2)
    step, state = k + lane % GROUP, lane // GROUP
    pointers = pointer + position * N + (step * N + state)
    tl.store(pointers, total, mask=(t + step < length) & (state < N))
