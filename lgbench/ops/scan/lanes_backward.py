"""Triton kernels of the backward scan whose lanes share channels, for 16 states.

The formulas and the stretches are those of `scan_triton_backward`, and so are the arrays, so that either can
follow any forward; who holds what is written in `scan_triton_tiles`. The sums over channels, dB and dC, take
7 exchanges between lanes a step in place of 31, and reading B and C takes a quarter. TAIL says that the last
tile of a sequence is not full: then all are masked, since a second copy without masks would take twice as
long to compile.

It stays beside the family with a lane a channel: it takes 8 % off forward+backward at 8 × 1,536 × 2,048 × 16
in bfloat16 on an H200, and other states and types, for which it was not timed, go the other way. What was
measured, and what was tried in its place, is in `docs/notebook/performance.md`.
"""

import triton
import triton.language as tl

from lgbench.ops.scan.backward import fold
from lgbench.ops.scan.forward import LOG2E, SIZES, per_channel
from lgbench.ops.scan.tiles import (
    joined,
    load_rows,
    load_states,
    own_states,
    pick,
    rates,
    sigmoid,
    slots,
    time_step,
)

POINTERS = (
    "x", "delta", "z", "grad", "A", "D", "delta_bias", "mask", "saved", "summary", "grad_state",
    "dx", "ddelta", "dz", "dBC", "small", "dh0",
)  # fmt: skip


@triton.jit(do_not_specialize=SIZES, do_not_specialize_on_alignment=POINTERS)
def adjoint_summary_lanes_kernel(
    delta, z, grad, C, A, delta_bias, mask, summary, length, chunk_length, num_chunks, mask_stride,
    E: tl.constexpr, N: tl.constexpr, P: tl.constexpr, TILE: tl.constexpr,
    DS: tl.constexpr, ZS: tl.constexpr, GS: tl.constexpr, CS: tl.constexpr,
    SOFTPLUS: tl.constexpr, TAIL: tl.constexpr,
):  # fmt: skip
    """What each chunk but the first adds to the gradient of the state before it, and ΣΔ in row N."""
    BLOCKS: tl.constexpr = (E + 31) // 32
    program = tl.program_id(0)
    chunk = 1 + (program // BLOCKS) % (num_chunks - 1)
    item = (program // BLOCKS // (num_chunks - 1)).to(tl.int64)
    lane = tl.arange(0, 32)
    e = (program % BLOCKS) * 32 + lane
    n = own_states(lane, P)
    A2, bias = rates(A, e, lane, n, E, N, P), per_channel(delta_bias, e, E)
    r = ()
    for s in tl.static_range(P):  # noqa: B007
        r = r + (tl.zeros([4, 32], tl.float32),)  # noqa: RUF005
    total = tl.zeros([32], tl.float32)
    first, mask_at = item * length, item * mask_stride
    C_at = C + first * CS + n
    begin = chunk * chunk_length
    end = tl.minimum(begin + chunk_length, length)
    t = begin + (end - 1 - begin) // TILE * TILE
    raw, gs, zs = _load_adjoint(delta, grad, z, first, t, length, e, E, TILE, DS, GS, ZS, TAIL)
    while t >= begin:
        raw_next, g_next, z_next = _load_adjoint(
            delta, grad, z, first, tl.maximum(t - TILE, begin), length, e, E, TILE, DS, GS, ZS, TAIL
        )
        Cs = load_states(C_at, t, length, n, N, P, CS, TILE, TAIL)
        for k in tl.static_range(TILE - 1, -1, -1):
            dt = time_step(raw[k], bias, mask, mask_at, t + k, length, SOFTPLUS, TAIL)[1]
            dts, gks = slots(dt, lane, P), slots(_gated(gs[k], zs[k], z), lane, P)
            Ck, before = Cs[k].to(tl.float32), ()
            for s in tl.static_range(P):
                G = gks[s][None, :] * Ck + r[s]
                before = before + (tl.exp2(dts[s][None, :] * A2[s]) * G,)  # noqa: RUF005
            r = before
            total += dt
        raw, gs, zs = raw_next, g_next, z_next
        t -= TILE
    at = summary + (item * num_chunks + chunk) * ((N + 1) * E)
    for s in tl.static_range(P):
        es = (e - lane + (lane ^ s))[None, :]
        tl.store(at + n * E + es, r[s], mask=(es < E) & (n < N))
    tl.store(at + N * E + e, total, mask=e < E)


@triton.jit
def _load_adjoint(
    delta, grad, z, first, t, length, e, E: tl.constexpr, TILE: tl.constexpr,
    DS: tl.constexpr, GS: tl.constexpr, ZS: tl.constexpr, TAIL: tl.constexpr,
):  # fmt: skip
    """The rows that the adjoint of a tile needs; those of grad stand for a missing z."""
    raw = load_rows(delta, first, t, length, e, E, DS, TILE, TAIL)
    gs = load_rows(grad, first, t, length, e, E, GS, TILE, TAIL)
    zs = gs
    if z is not None:
        zs = load_rows(z, first, t, length, e, E, ZS, TILE, TAIL)
    return raw, gs, zs


@triton.jit
def _gated(g, zk, z):
    """The gradient of y before the gate, float32."""
    g = g.to(tl.float32)
    if z is not None:
        zk = zk.to(tl.float32)
        g *= zk * sigmoid(zk)
    return g


@triton.jit(do_not_specialize=SIZES, do_not_specialize_on_alignment=POINTERS)
def backward_lanes_kernel(
    x, delta, z, grad, B, C, A, D, delta_bias, mask, saved, summary, grad_state, scratch,
    dx, ddelta, dz, dBC, small, dh0, length, chunk_length, num_chunks, batch, mask_stride,
    E: tl.constexpr, N: tl.constexpr, P: tl.constexpr, TILE: tl.constexpr, SAVE: tl.constexpr,
    XS: tl.constexpr, DS: tl.constexpr, ZS: tl.constexpr, GS: tl.constexpr, BS: tl.constexpr,
    CS: tl.constexpr, SOFTPLUS: tl.constexpr, TAIL: tl.constexpr,
):  # fmt: skip
    """All gradients of one chunk of one block of channels.

    dBC `(2, blocks, B, L, N)`: parts of dB and dC, to be added over blocks. small `(B, num_chunks, (N + 2)
    E)`: parts of dA `(E, N)`, dD and the gradient of the bias, to be added over sequences and chunks.
    scratch: `SAVE // TILE` times all states of 32 channels for each program. TILE is 8 / P.
    """
    BLOCKS: tl.constexpr = (E + 31) // 32
    program = tl.program_id(0)
    chunk = (program // BLOCKS) % num_chunks
    item = (program // BLOCKS // num_chunks).to(tl.int64)
    lane = tl.arange(0, 32)
    e = (program % BLOCKS) * 32 + lane
    n = own_states(lane, P)
    A2 = rates(A, e, lane, n, E, N, P)
    bias, skip = per_channel(delta_bias, e, E), per_channel(D, e, E)
    after = summary + (item * num_chunks + chunk + 1) * ((N + 1) * E)
    r, dA = (), ()
    for s in tl.static_range(P):
        es = (e - lane + (lane ^ s))[None, :]
        r = r + (_enter(grad_state, after, chunk == num_chunks - 1, item, es, n, E, N),)  # noqa: RUF005
        dA = dA + (tl.zeros([4, 32], tl.float32),)  # noqa: RUF005
    dD, dbias = tl.zeros([32], tl.float32), tl.zeros([32], tl.float32)
    first, mask_at = item * length, item * mask_stride
    B_at, C_at = B + first * BS + n, C + first * CS + n
    dB = dBC + (program % BLOCKS).to(tl.int64) * batch * length * N
    dC = dB + batch.to(tl.int64) * length * (BLOCKS * N)
    kept = scratch + program.to(tl.int64) * (SAVE // TILE * 128 * P) + lane[None, :] * 4 + n % 4
    begin = chunk * chunk_length
    end = tl.minimum(begin + chunk_length, length)
    low = begin + (end - 1 - begin) // SAVE * SAVE
    while low >= begin:
        last = low + (tl.minimum(low + SAVE, end) - 1 - low) // TILE * TILE
        stretch = item * tl.cdiv(length, SAVE) + low // SAVE
        h = ()
        for s in tl.static_range(P):
            es = (e - lane + (lane ^ s))[None, :]
            saved_at = saved + stretch * (N * E) + n * E + es
            h = h + (tl.load(saved_at, mask=(es < E) & (n < N), other=0.0),)  # noqa: RUF005
        for s in tl.static_range(P):
            tl.store(kept + s * 128, h[s])
        t = low
        xs = load_rows(x, first, t, length, e, E, XS, TILE, TAIL)
        raw = load_rows(delta, first, t, length, e, E, DS, TILE, TAIL)
        while t < last:  # keeps the states before each later tile
            x_next = load_rows(x, first, t + TILE, length, e, E, XS, TILE, TAIL)
            raw_next = load_rows(delta, first, t + TILE, length, e, E, DS, TILE, TAIL)
            Bs = load_states(B_at, t, length, n, N, P, BS, TILE, False)
            for k in tl.static_range(TILE):
                dt = time_step(raw[k], bias, mask, mask_at, t + k, length, SOFTPLUS, False)[1]
                h = _advance(h, Bs[k], dt, xs[k].to(tl.float32), A2, lane, P)
            t += TILE
            for s in tl.static_range(P):
                tl.store(kept + (t - low) // TILE * (128 * P) + s * 128, h[s])
            xs, raw = x_next, raw_next
        tl.debug_barrier()
        raw, gs, zs = _load_adjoint(delta, grad, z, first, t, length, e, E, TILE, DS, GS, ZS, TAIL)
        while t >= low:
            to = tl.maximum(t - TILE, low)
            x_next = load_rows(x, first, to, length, e, E, XS, TILE, TAIL)
            raw_next, g_next, z_next = _load_adjoint(
                delta, grad, z, first, to, length, e, E, TILE, DS, GS, ZS, TAIL
            )
            if t < last:
                h = ()
                for s in tl.static_range(P):
                    h = h + (tl.load(kept + (t - low) // TILE * (128 * P) + s * 128),)  # noqa: RUF005
            r, dA, dD, dbias = _tile(
                h, r, dA, dD, dbias, xs, raw, gs, zs, B_at, C_at, z, A2, D, skip, bias, mask, mask_at,
                dx, ddelta, dz, dB, dC, first, t, length, e, lane, n,
                E, N, P, TILE, BS, CS, SOFTPLUS, TAIL,
            )  # fmt: skip
            xs, raw, gs, zs = x_next, raw_next, g_next, z_next
            t -= TILE
        tl.debug_barrier()
        low -= SAVE
    at = small + (item * num_chunks + chunk) * ((N + 2) * E)
    for s in tl.static_range(P):
        es = (e - lane + (lane ^ s))[None, :]
        here = (es < E) & (n < N)
        tl.store(at + es * N + n, dA[s], mask=here)
        if dh0 is not None:  # noqa: SIM102 (decided at compile time, the inner one at run time)
            if chunk == 0:
                tl.store(dh0 + (item * E + es) * N + n, r[s], mask=here)
    tl.store(at + N * E + e, dD, mask=e < E)
    tl.store(at + (N + 1) * E + e, dbias, mask=e < E)


@triton.jit
def _enter(grad_state, after, at_the_end, item, es, n, E: tl.constexpr, N: tl.constexpr):
    """What enters a chunk: `grad_state` `(B, E, N)` or zero at the end, else what left its neighbour."""
    here = (es < E) & (n < N)
    value = tl.zeros([4, 32], tl.float32)
    if at_the_end:
        if grad_state is not None:
            value = tl.load(grad_state + (item * E + es) * N + n, mask=here, other=0.0).to(tl.float32)
    else:
        value = tl.load(after + n * E + es, mask=here, other=0.0)
    return value


@triton.jit
def _advance(h, Bk, dt, x, A2, lane, P: tl.constexpr):
    """The states after a step, from those before it."""
    dts, dtxs, after = slots(dt, lane, P), slots(dt * x, lane, P), ()
    for s in tl.static_range(P):
        added = dtxs[s][None, :] * Bk.to(tl.float32)
        after = after + (tl.exp2(dts[s][None, :] * A2[s]) * h[s] + added,)  # noqa: RUF005
    return after


@triton.jit
def _tile(
    h, r, dA, dD, dbias, xs, raw, gs, zs, B, C, z, A2, D, skip, bias, mask, mask_at, dx, ddelta, dz, dB, dC,
    first, t, length, e, lane, n,
    E: tl.constexpr, N: tl.constexpr, P: tl.constexpr, TILE: tl.constexpr, BS: tl.constexpr,
    CS: tl.constexpr, SOFTPLUS: tl.constexpr, TAIL: tl.constexpr,
):  # fmt: skip
    """Gradients of one tile from h, the state before it, and r, the gradient of the state after it."""
    position = first + t
    raw_Bs = load_states(B, t, length, n, N, P, BS, TILE, TAIL)
    raw_Cs = load_states(C, t, length, n, N, P, CS, TILE, TAIL)
    Bs, Cs, dts, dtxs, gates, before, decays, ys, sums = (), (), (), (), (), (), (), (), ()
    for k in tl.static_range(TILE):
        Bk, Ck = raw_Bs[k].to(tl.float32), raw_Cs[k].to(tl.float32)
        dt = time_step(raw[k], bias, mask, mask_at, t + k, length, SOFTPLUS, TAIL)[1]
        dt_k, dtx_k = slots(dt, lane, P), slots(dt * xs[k].to(tl.float32), lane, P)
        g_k = slots(_gated(gs[k], zs[k], z), lane, P)
        after, parts, products = (), (), tl.zeros([4, 32], tl.float32)
        for s in tl.static_range(P):
            decay = tl.exp2(dt_k[s][None, :] * A2[s])
            before, decays = before + (h[s],), decays + (decay,)  # noqa: RUF005
            hs = decay * h[s] + dtx_k[s][None, :] * Bk
            after, parts = after + (hs,), parts + (tl.sum(hs * Ck, 0),)  # noqa: RUF005
            products += hs * g_k[s][None, :]
        h = after
        Bs, Cs, dts, dtxs = Bs + (Bk,), Cs + (Ck,), dts + (dt_k,), dtxs + (dtx_k,)  # noqa: RUF005
        gates, ys = gates + (g_k,), ys + (parts,)  # noqa: RUF005
        sums = sums + (_over_channels(products, lane),)  # noqa: RUF005
    _store_sums(dC, position, sums, t, length, lane, N, P, TILE)
    sums = ()
    for k in tl.static_range(TILE - 1, -1, -1):
        gk, xk, zk = gates[k][0], xs[k].to(tl.float32), zs[k].to(tl.float32)
        r_before, us, ws, products = (), (), (), tl.zeros([4, 32], tl.float32)
        dA_before, dA = dA, ()
        for s in tl.static_range(P):
            G = gates[k][s][None, :] * Cs[k] + r[s]
            rs = decays[k * P + s] * G
            w = rs * before[k * P + s]
            r_before = r_before + (rs,)  # noqa: RUF005
            dA = dA + (dA_before[s] + w * dts[k][s][None, :],)  # noqa: RUF005
            us, ws = us + (tl.sum(G * Bs[k], 0),), ws + (tl.sum(w * A2[s], 0),)  # noqa: RUF005
            products += G * dtxs[k][s][None, :]
        r = r_before
        sums = (_over_channels(products, lane),) + sums  # noqa: RUF005
        u = joined(us, lane, P)
        v, dt = time_step(raw[k], bias, mask, mask_at, t + k, length, SOFTPLUS, TAIL)
        dv = xk * u + joined(ws, lane, P) * (1.0 / LOG2E)
        if SOFTPLUS:
            dv *= sigmoid(v)
        if mask is not None:
            keep = tl.load(mask + mask_at + t + k, mask=t + k < length, other=0)
            dv = tl.where(keep != 0, dv, 0.0)
        ok = e < E
        if TAIL:
            dv = tl.where(t + k < length, dv, 0.0)
            ok = ok & (t + k < length)
        dbias += dv
        dxk = dt * u
        if D is not None:
            dxk += skip * gk
            dD += gk * xk
        at = (position + k) * E + e
        tl.store(dx + at, dxk.to(dx.dtype.element_ty), mask=ok)
        tl.store(ddelta + at, dv.to(ddelta.dtype.element_ty), mask=ok)
        if z is not None:
            y = joined(ys[k], lane, P) + skip * xk
            gate = sigmoid(zk)
            dzk = gs[k].to(tl.float32) * y * gate * (1.0 + zk * (1.0 - gate))
            tl.store(dz + at, dzk.to(dz.dtype.element_ty), mask=ok)
    _store_sums(dB, position, sums, t, length, lane, N, P, TILE)
    return r, dA, dD, dbias


@triton.jit
def _over_channels(states, lane):
    """Towards the sums over channels of 4 states: lane l gets a part of that of state l // 8."""
    index = tl.arange(0, 4)[:, None]
    values = (pick(states, index, 0), pick(states, index, 1), pick(states, index, 2), pick(states, index, 3))
    return fold(values, lane, 4, 16)


@triton.jit
def _store_sums(
    pointer, position, sums, t, length, lane, N: tl.constexpr, P: tl.constexpr, TILE: tl.constexpr
):
    """Finish the sums over channels of the steps of a tile, a number a lane, and write them."""
    total = fold(sums, lane, TILE, TILE // 2 * P)
    step, state = lane // P % TILE, lane % P * 4 + lane // 8
    at = pointer + position * N + (step * N + state)
    tl.store(at, total, mask=(t + step < length) & (state < N))
