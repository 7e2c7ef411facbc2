"""The Triton kernels behind `scan_triton`: forward, adjoint and carry.

A tile is `(TILE, BLOCK)`: a few time steps of a block of channels. Its pointers are built without a known alignment,
so that Triton gives every thread whole columns of it (one channel, all TILE steps) and, of the state `(NP, BLOCK)`,
one channel with all its states: the recurrence, the sum over states and the choice of a row then cost no exchange
between threads, and one time step's row of a warp is one coalesced access.

Names: E channels, N states, NP the power of two that holds them, *S row strides (XS of x, DS of Δ, ...), position the
row of a `(B·L, ...)` array. Steps past the end of the sequence have Δ = 0 and B = C = 0 and leave the state alone.
"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
RUNTIME_SIZES = ("length", "chunk_length", "chunks_run", "num_chunks", "batch", "mask_stride")


def padded_states(states: int) -> int:
    """NP: a power of two, between 4 and 32 because the 32 lanes of a warp share out the sums over channels."""
    return max(4, triton.next_power_of_2(states))


@triton.jit
def _softplus(v):
    """log(1 + exp(v)) to 2e-7, relative also for very negative v: max(v, 0) + log1p(e), e = exp(-|v|) in (0, 1]."""
    e = tl.exp2(-LOG2E * tl.abs(v))
    p = 0.00523269192 * e - 0.0295052301
    p = p * e + 0.0782259392
    p = p * e - 0.136632449
    p = p * e + 0.191060064
    p = p * e - 0.248429822
    p = p * e + 0.333190968
    p = p * e - 0.499994931
    p = p * e + 0.99999997
    return tl.maximum(v, 0.0) + p * e


@triton.jit
def _sigmoid(v):
    return 1.0 / (1.0 + tl.exp2(-LOG2E * v))


@triton.jit
def _row(tile, step, k: tl.constexpr):
    """Row k of a `(TILE, ...)` tile; free when a thread holds whole columns, as the compiler then sees through it."""
    bits = tl.where(step == k, tile.to(tl.int32, bitcast=True), 0)
    return tl.sum(bits, 0).to(tl.float32, bitcast=True)


@triton.jit
def _load_tile(pointer, position, STRIDE: tl.constexpr, step, e, ok, MASKED: tl.constexpr):
    """Rows `position + step` of a `(B·L, E)` array as float32 `(TILE, BLOCK)`; zero where not ok."""
    pointers = pointer + position * STRIDE + (step * STRIDE + e[None, :])
    return (tl.load(pointers, mask=ok, other=0.0) if MASKED else tl.load(pointers)).to(tl.float32)


@triton.jit
def _load_states(pointer, position, k: tl.constexpr, STRIDE: tl.constexpr, n, N: tl.constexpr, ok, MASKED: tl.constexpr):
    """Row `position + k` of B or C as float32 `(NP,)`; zero where not ok."""
    pointers = pointer + position * STRIDE + (k * STRIDE + n)
    return (tl.load(pointers, mask=ok & (n < N), other=0.0) if MASKED else tl.load(pointers)).to(tl.float32)


@triton.jit
def _time_step(raw, bias, mask, mask_at, t, length, step, SOFTPLUS: tl.constexpr, TAIL: tl.constexpr):
    """Raw Δ with bias, and the Δ that the recurrence uses: after softplus, zero at masked steps and past the end."""
    v = raw + bias[None, :]
    dt = _softplus(v) if SOFTPLUS else v
    if TAIL:
        dt = tl.where(t + step < length, dt, 0.0)
    if mask is not None:
        keep = tl.load(mask + mask_at + t + step, mask=t + step < length, other=0)
        dt = tl.where(keep != 0, dt, 0.0)
    return v, dt


@triton.jit
def _forward_tile(
    h, total, x, delta, z, out, B, C, A2, D, bias, mask, mask_at, first, t, length, step, e, n,
    E: tl.constexpr, N: tl.constexpr, NP: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr,
    XS: tl.constexpr, DS: tl.constexpr, ZS: tl.constexpr, BS: tl.constexpr, CS: tl.constexpr,
    SOFTPLUS: tl.constexpr, OUTPUT: tl.constexpr, TAIL: tl.constexpr,
):  # fmt: skip
    """TILE steps from t on. Returns the state after them and ΣΔ; writes the outputs if OUTPUT."""
    MASKED: tl.constexpr = TAIL or E % BLOCK != 0
    ok = (t + step < length) & (e[None, :] < E)
    position = first + t
    xs = _load_tile(x, position, XS, step, e, ok, MASKED)
    raw = _load_tile(delta, position, DS, step, e, ok, MASKED)
    if OUTPUT and z is not None:
        zs = _load_tile(z, position, ZS, step, e, ok, MASKED)
    v, dt = _time_step(raw, bias, mask, mask_at, t, length, step, SOFTPLUS, TAIL)
    dtx = dt * xs
    ys = tl.zeros([TILE, BLOCK], tl.float32)
    for k in tl.static_range(TILE):
        Bk = _load_states(B, position, k, BS, n, N, t + k < length, TAIL or NP != N)
        dtk = _row(dt, step, k)
        dtxk = _row(dtx, step, k)
        h = tl.exp2(dtk[None, :] * A2) * h + dtxk[None, :] * Bk[:, None]
        if OUTPUT:
            Ck = _load_states(C, position, k, CS, n, N, t + k < length, TAIL or NP != N)
            ys = tl.where(step == k, tl.sum(h * Ck[:, None], 0)[None, :], ys)
        else:
            total += dtk
    if OUTPUT:
        if D is not None:
            ys += D[None, :] * xs
        if z is not None:
            ys *= zs * _sigmoid(zs)
        pointers = out + position * E + (step * E + e[None, :])
        if MASKED:
            tl.store(pointers, ys.to(out.dtype.element_ty), mask=ok)
        else:
            tl.store(pointers, ys.to(out.dtype.element_ty))
    return h, total


@triton.jit(do_not_specialize=RUNTIME_SIZES, do_not_specialize_on_alignment=("x", "delta", "z", "out", "start", "saved", "local", "decay", "state", "A", "D", "delta_bias", "mask"))
def forward_kernel(
    x, delta, z, out, B, C, A, D, delta_bias, mask, start, state, local, decay, saved,
    length, chunk_length, chunks_run, num_chunks, mask_stride,
    E: tl.constexpr, N: tl.constexpr, NP: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr, SAVE: tl.constexpr,
    XS: tl.constexpr, DS: tl.constexpr, ZS: tl.constexpr, BS: tl.constexpr, CS: tl.constexpr,
    SOFTPLUS: tl.constexpr, SUMMARY: tl.constexpr,
):  # fmt: skip
    """One chunk of one block of channels: its summary (local, decay) if SUMMARY, else its outputs and states."""
    BLOCKS: tl.constexpr = (E + BLOCK - 1) // BLOCK
    program = tl.program_id(0)
    chunk = (program // BLOCKS) % chunks_run
    item = (program // BLOCKS // chunks_run).to(tl.int64)
    e = (program % BLOCKS) * BLOCK + tl.arange(0, BLOCK)
    n = tl.arange(0, NP)
    step = tl.arange(0, TILE)[:, None]
    here = (e[None, :] < E) & (n[:, None] < N)
    grid_states = n[:, None] * E + e[None, :]
    A2 = tl.load(A + e[None, :] * N + n[:, None], mask=here, other=0.0).to(tl.float32) * LOG2E
    bias, skip = _per_channel(delta_bias, e, E, BLOCK), _per_channel(D, e, E, BLOCK)
    h = tl.zeros([NP, BLOCK], tl.float32)
    if start is not None:
        h = tl.load(start + (item * num_chunks + chunk) * (N * E) + grid_states, mask=here, other=0.0)
    total = tl.zeros([BLOCK], tl.float32)
    first, mask_at = item * length, item * mask_stride
    begin = chunk * chunk_length
    end = tl.minimum(begin + chunk_length, length)
    full = begin + (end - begin) // TILE * TILE
    t = begin
    while t < full:
        if saved is not None:
            if t % SAVE == 0:
                at = (item * tl.cdiv(length, SAVE) + t // SAVE) * (N * E)
                tl.store(saved + at + grid_states, h, mask=here)
        h, total = _forward_tile(
            h, total, x, delta, z, out, B, C, A2, skip, bias, mask, mask_at, first, t, length, step, e, n,
            E, N, NP, BLOCK, TILE, XS, DS, ZS, BS, CS, SOFTPLUS, not SUMMARY, False,
        )  # fmt: skip
        t += TILE
    if full < end:
        if saved is not None:
            if full % SAVE == 0:
                at = (item * tl.cdiv(length, SAVE) + full // SAVE) * (N * E)
                tl.store(saved + at + grid_states, h, mask=here)
        h, total = _forward_tile(
            h, total, x, delta, z, out, B, C, A2, skip, bias, mask, mask_at, first, full, length, step, e, n,
            E, N, NP, BLOCK, TILE, XS, DS, ZS, BS, CS, SOFTPLUS, not SUMMARY, True,
        )  # fmt: skip
    if SUMMARY:
        at = item * num_chunks + chunk
        tl.store(local + at * (N * E) + grid_states, h, mask=here)
        tl.store(decay + at * E + e, total, mask=e < E)
    else:
        if end == length:
            tl.store(state + (item * E + e[None, :]) * N + n[:, None], h, mask=here)


@triton.jit
def _per_channel(pointer, e, E: tl.constexpr, BLOCK: tl.constexpr):
    """A `(E,)` parameter as float32 `(BLOCK,)`, zero where there is none."""
    values = tl.zeros([BLOCK], tl.float32)
    if pointer is not None:
        values = tl.load(pointer + e, mask=e < E, other=0.0).to(tl.float32)
    return values


@triton.jit
def _combine(decay1, state1, decay2, state2):
    """First stretch 1, then stretch 2."""
    return decay1 * decay2, decay2 * state1 + state2


@triton.jit(do_not_specialize=RUNTIME_SIZES)
def carry_kernel(
    local, decay, A, first, carried, num_chunks,
    E: tl.constexpr, N: tl.constexpr, TILE: tl.constexpr, COLUMNS: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """What enters every chunk, for COLUMNS of the N·E states of one sequence; TILE chunks at once."""
    BLOCKS: tl.constexpr = (N * E + COLUMNS - 1) // COLUMNS
    program = tl.program_id(0)
    item = (program // BLOCKS).to(tl.int64)
    column = (program % BLOCKS) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < N * E
    e = column % E
    A2 = tl.load(A + e * N + column // E, mask=inside, other=0.0).to(tl.float32) * LOG2E
    entering = tl.zeros([COLUMNS], tl.float32)
    if first is not None:
        entering = tl.load(first + item * (N * E) + column, mask=inside, other=0.0)
    row = tl.arange(0, TILE)
    begin = 0
    while begin < num_chunks:
        place = begin + row
        ok = (place[:, None] < num_chunks) & inside[None, :]
        chunk = (num_chunks - 1 - place) if REVERSE else place
        before = (chunk + 1) if REVERSE else (chunk - 1)
        read = ok & (place[:, None] > 0)
        at = (item * num_chunks + before)[:, None]
        total = tl.load(decay + at * E + e[None, :], mask=read, other=0.0)
        b = tl.load(local + at * (N * E) + column[None, :], mask=read, other=0.0)
        a = tl.exp2(total * A2[None, :])
        b = tl.where(row[:, None] == 0, a * entering[None, :] + b, b)
        _, b = tl.associative_scan((a, b), 0, _combine)
        to = (item * num_chunks + chunk)[:, None] * (N * E) + column[None, :]
        tl.store(carried + to, b, mask=ok)
        entering = tl.sum(tl.where(row[:, None] == TILE - 1, b, 0.0), 0)
        begin += TILE


@triton.jit
def _adjoint_summary_tile(
    r, total, delta, z, grad, C, A2, bias, mask, mask_at, first, t, length, step, e, n,
    E: tl.constexpr, N: tl.constexpr, NP: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr,
    DS: tl.constexpr, ZS: tl.constexpr, GS: tl.constexpr, CS: tl.constexpr,
    SOFTPLUS: tl.constexpr, TAIL: tl.constexpr,
):  # fmt: skip
    """r, the gradient of the state after the tile, becomes that of the state before it."""
    MASKED: tl.constexpr = TAIL or E % BLOCK != 0
    ok = (t + step < length) & (e[None, :] < E)
    position = first + t
    raw = _load_tile(delta, position, DS, step, e, ok, MASKED)
    gs = _load_tile(grad, position, GS, step, e, ok, MASKED)
    if z is not None:
        zs = _load_tile(z, position, ZS, step, e, ok, MASKED)
        gs *= zs * _sigmoid(zs)
    v, dt = _time_step(raw, bias, mask, mask_at, t, length, step, SOFTPLUS, TAIL)
    for k in tl.static_range(TILE - 1, -1, -1):
        Ck = _load_states(C, position, k, CS, n, N, t + k < length, TAIL or NP != N)
        dtk = _row(dt, step, k)
        gk = _row(gs, step, k)
        r = tl.exp2(dtk[None, :] * A2) * (gk[None, :] * Ck[:, None] + r)
        total += dtk
    return r, total


@triton.jit(do_not_specialize=RUNTIME_SIZES, do_not_specialize_on_alignment=("delta", "z", "grad", "local", "decay", "A", "delta_bias", "mask"))
def adjoint_summary_kernel(
    delta, z, grad, C, A, delta_bias, mask, local, decay, length, chunk_length, num_chunks, mask_stride,
    E: tl.constexpr, N: tl.constexpr, NP: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr,
    DS: tl.constexpr, ZS: tl.constexpr, GS: tl.constexpr, CS: tl.constexpr, SOFTPLUS: tl.constexpr,
):  # fmt: skip
    """What one chunk alone adds to the gradient of the state before it, and ΣΔ. The first chunk has no reader."""
    BLOCKS: tl.constexpr = (E + BLOCK - 1) // BLOCK
    program = tl.program_id(0)
    chunk = 1 + (program // BLOCKS) % (num_chunks - 1)
    item = (program // BLOCKS // (num_chunks - 1)).to(tl.int64)
    e = (program % BLOCKS) * BLOCK + tl.arange(0, BLOCK)
    n = tl.arange(0, NP)
    step = tl.arange(0, TILE)[:, None]
    here = (e[None, :] < E) & (n[:, None] < N)
    A2 = tl.load(A + e[None, :] * N + n[:, None], mask=here, other=0.0).to(tl.float32) * LOG2E
    bias = _per_channel(delta_bias, e, E, BLOCK)
    r = tl.zeros([NP, BLOCK], tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    first, mask_at = item * length, item * mask_stride
    begin = chunk * chunk_length
    end = tl.minimum(begin + chunk_length, length)
    tiles = (end - begin) // TILE
    if begin + tiles * TILE < end:
        r, total = _adjoint_summary_tile(
            r, total, delta, z, grad, C, A2, bias, mask, mask_at, first, begin + tiles * TILE, length, step, e, n,
            E, N, NP, BLOCK, TILE, DS, ZS, GS, CS, SOFTPLUS, True,
        )  # fmt: skip
    t = begin + (tiles - 1) * TILE
    while t >= begin:
        r, total = _adjoint_summary_tile(
            r, total, delta, z, grad, C, A2, bias, mask, mask_at, first, t, length,
            step, e, n, E, N, NP, BLOCK, TILE, DS, ZS, GS, CS, SOFTPLUS, False,
        )  # fmt: skip
        t -= TILE
    at = item * num_chunks + chunk
    tl.store(local + at * (N * E) + n[:, None] * E + e[None, :], r, mask=here)
    tl.store(decay + at * E + e, total, mask=e < E)


@triton.jit
def _exchange(low, high, lane, DISTANCE: tl.constexpr):
    """Lanes whose DISTANCE bit is clear get their `low` plus their partner's, the others `high` plus `high`."""
    upper = (lane & DISTANCE) != 0
    keep, send = tl.where(upper, high, low), tl.where(upper, low, high)
    return keep + tl.gather(send, lane ^ DISTANCE, 0)


@triton.jit
def _fold(values, lane, COUNT: tl.constexpr, DISTANCE: tl.constexpr):
    """COUNT vectors over the lanes become one: each halving adds pairs of lanes and sorts the vectors by a lane bit."""
    if COUNT == 1:
        return values[0]
    else:
        halves = ()
        for j in tl.static_range(COUNT // 2):
            halves = halves + (_exchange(values[j], values[j + COUNT // 2], lane, DISTANCE),)
        return _fold(halves, lane, COUNT // 2, DISTANCE // 2)


@triton.jit
def _sums_over_channels(tile, n, lane, NP: tl.constexpr):
    """Towards Σ_e of `(NP, 32)`: lane l ends with the part of state l // (32 // NP) that its group of lanes holds.

    NP - 1 exchanges between lanes instead of the 5 NP of one reduction a state.
    """
    values = ()
    for j in tl.static_range(NP):
        values = values + (_row(tile, n[:, None], j),)
    return _fold(values, lane, NP, 16)


@triton.jit
def _store_sums(
    pointer, rows_at, sums, k: tl.constexpr, t, length, lane,
    N: tl.constexpr, NP: tl.constexpr, GROUP: tl.constexpr, TAIL: tl.constexpr,
):  # fmt: skip
    """Finish the sums over channels of GROUP steps from k on, one number a lane, and write them."""
    total = _fold(sums, lane, GROUP, GROUP // 2)
    step, state = k + lane % GROUP, lane // GROUP
    pointers = pointer + rows_at * N + (step * N + state)
    if TAIL or NP != N:
        tl.store(pointers, total, mask=(t + step < length) & (state < N))
    else:
        tl.store(pointers, total)


@triton.jit
def _backward_tile(
    h, r, dA, dD, dbias, x, delta, z, grad, B, C, A2, D, bias, mask, mask_at, dx, ddelta, dz, dB, dC, states_at,
    first, t, length, step, e, n,
    E: tl.constexpr, N: tl.constexpr, NP: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr,
    XS: tl.constexpr, DS: tl.constexpr, ZS: tl.constexpr, GS: tl.constexpr, BS: tl.constexpr, CS: tl.constexpr,
    SOFTPLUS: tl.constexpr, TAIL: tl.constexpr,
):  # fmt: skip
    """Gradients of one tile from h, the state before it, and r, the gradient of the state after it.

    With G_t the gradient of h_t and r_t = exp(Δ_t A) G_t that of h_{t-1}: G_t = r_{t+1} + C_t g_t, and
    dC_t = Σ_e g_t h_t, dB_t = Σ_e Δ_t x_t G_t, dA = Σ_t Δ_t r_t h_{t-1}, dΔ_t = x_t Σ_n G_t B_t + Σ_n A r_t h_{t-1}.
    """
    MASKED: tl.constexpr = TAIL or E % BLOCK != 0
    ok = (t + step < length) & (e[None, :] < E)
    position = first + t
    xs = _load_tile(x, position, XS, step, e, ok, MASKED)
    raw = _load_tile(delta, position, DS, step, e, ok, MASKED)
    gs = _load_tile(grad, position, GS, step, e, ok, MASKED)
    if z is not None:
        zs = _load_tile(z, position, ZS, step, e, ok, MASKED)
        gate = _sigmoid(zs)
        upstream = gs
        gs = gs * zs * gate
    v, dt = _time_step(raw, bias, mask, mask_at, t, length, step, SOFTPLUS, TAIL)
    dtx = dt * xs
    lane = tl.arange(0, BLOCK)
    rows_at = states_at + position
    GROUP: tl.constexpr = 32 // NP
    tile3 = step[:, :, None]
    before = tl.zeros([TILE, NP, BLOCK], tl.float32)
    ys = tl.zeros([TILE, BLOCK], tl.float32)
    sums = ()
    for k in tl.static_range(TILE):
        Bk = _load_states(B, position, k, BS, n, N, t + k < length, TAIL or NP != N)
        before = tl.where(tile3 == k, h[None, :, :], before)
        h = tl.exp2(_row(dt, step, k)[None, :] * A2) * h + _row(dtx, step, k)[None, :] * Bk[:, None]
        if z is not None:
            Ck = _load_states(C, position, k, CS, n, N, t + k < length, TAIL or NP != N)
            ys = tl.where(step == k, tl.sum(h * Ck[:, None], 0)[None, :], ys)
        sums = sums + (_sums_over_channels(h * _row(gs, step, k)[None, :], n, lane, NP),)
        if k % GROUP == GROUP - 1:
            _store_sums(dC, rows_at, sums, k - (GROUP - 1), t, length, lane, N, NP, GROUP, TAIL)
            sums = ()
    us = tl.zeros([TILE, BLOCK], tl.float32)
    ws = tl.zeros([TILE, BLOCK], tl.float32)
    for k in tl.static_range(TILE - 1, -1, -1):
        Bk = _load_states(B, position, k, BS, n, N, t + k < length, TAIL or NP != N)
        Ck = _load_states(C, position, k, CS, n, N, t + k < length, TAIL or NP != N)
        dtk = _row(dt, step, k)
        G = _row(gs, step, k)[None, :] * Ck[:, None] + r
        r = tl.exp2(dtk[None, :] * A2) * G
        w = r * _row(before, tile3, k)
        dA += w * dtk[None, :]
        us = tl.where(step == k, tl.sum(G * Bk[:, None], 0)[None, :], us)
        ws = tl.where(step == k, tl.sum(w * A2, 0)[None, :], ws)
        sums = (_sums_over_channels(G * _row(dtx, step, k)[None, :], n, lane, NP),) + sums
        if k % GROUP == 0:
            _store_sums(dB, rows_at, sums, k, t, length, lane, N, NP, GROUP, TAIL)
            sums = ()
    dxs = dt * us
    dvs = xs * us + ws * (1.0 / LOG2E)
    if SOFTPLUS:
        dvs *= _sigmoid(v)
    if mask is not None:
        dvs = tl.where(dt == 0.0, 0.0, dvs)
    if TAIL:
        dvs = tl.where(t + step < length, dvs, 0.0)
    dbias += tl.sum(dvs, 0)
    if D is not None:
        dxs += D[None, :] * gs
        dD += tl.sum(gs * xs, 0)
        if z is not None:
            ys += D[None, :] * xs
    columns = step * E + e[None, :]
    tl.store(dx + position * E + columns, dxs.to(dx.dtype.element_ty), mask=ok)
    tl.store(ddelta + position * E + columns, dvs.to(ddelta.dtype.element_ty), mask=ok)
    if z is not None:
        dzs = upstream * ys * gate * (1.0 + zs * (1.0 - gate))
        tl.store(dz + position * E + columns, dzs.to(dz.dtype.element_ty), mask=ok)
    return r, dA, dD, dbias


@triton.jit(do_not_specialize=RUNTIME_SIZES, do_not_specialize_on_alignment=("x", "delta", "z", "grad", "dx", "ddelta", "dz", "saved", "end_grad", "scratch", "small", "dh0", "A", "D", "delta_bias", "mask"))
def backward_kernel(
    x, delta, z, grad, B, C, A, D, delta_bias, mask, saved, end_grad, scratch, dx, ddelta, dz, dB, dC, small, dh0,
    length, chunk_length, num_chunks, batch, mask_stride,
    E: tl.constexpr, N: tl.constexpr, NP: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr, SAVE: tl.constexpr,
    XS: tl.constexpr, DS: tl.constexpr, ZS: tl.constexpr, GS: tl.constexpr, BS: tl.constexpr, CS: tl.constexpr,
    SOFTPLUS: tl.constexpr,
):  # fmt: skip
    """All gradients of one chunk of one block of channels, from the last saved state back to the first."""
    BLOCKS: tl.constexpr = (E + BLOCK - 1) // BLOCK
    program = tl.program_id(0)
    chunk = (program // BLOCKS) % num_chunks
    item = (program // BLOCKS // num_chunks).to(tl.int64)
    e = (program % BLOCKS) * BLOCK + tl.arange(0, BLOCK)
    n = tl.arange(0, NP)
    step = tl.arange(0, TILE)[:, None]
    here = (e[None, :] < E) & (n[:, None] < N)
    grid_states = n[:, None] * E + e[None, :]
    A2 = tl.load(A + e[None, :] * N + n[:, None], mask=here, other=0.0).to(tl.float32) * LOG2E
    bias, skip = _per_channel(delta_bias, e, E, BLOCK), _per_channel(D, e, E, BLOCK)
    r = tl.zeros([NP, BLOCK], tl.float32)
    if end_grad is not None:
        r = tl.load(end_grad + (item * num_chunks + chunk) * (N * E) + grid_states, mask=here, other=0.0)
    dA = tl.zeros([NP, BLOCK], tl.float32)
    dD = tl.zeros([BLOCK], tl.float32)
    dbias = tl.zeros([BLOCK], tl.float32)
    first, mask_at = item * length, item * mask_stride
    states_at = (program % BLOCKS).to(tl.int64) * batch * length
    begin = chunk * chunk_length
    end = tl.minimum(begin + chunk_length, length)
    low = begin + (end - 1 - begin) // SAVE * SAVE
    while low >= begin:
        high = tl.minimum(low + SAVE, end)
        tiles = (high - low) // TILE
        saved_at = saved + (item * tl.cdiv(length, SAVE) + low // SAVE) * (N * E) + grid_states
        h = tl.load(saved_at, mask=here, other=0.0)
        if SAVE > TILE:
            kept = scratch + program.to(tl.int64) * (SAVE // TILE * NP * BLOCK) + n[:, None] * BLOCK + (e % BLOCK)[None, :]
            total = tl.zeros([BLOCK], tl.float32)
            tl.store(kept, h)
            i = 0
            while low + (i + 1) * TILE < high:
                h, total = _forward_tile(
                    h, total, x, delta, None, None, B, None, A2, None, bias, mask, mask_at, first,
                    low + i * TILE, length, step, e, n,
                    E, N, NP, BLOCK, TILE, XS, DS, ZS, BS, CS, SOFTPLUS, False, False,
                )  # fmt: skip
                i += 1
                tl.store(kept + i * (NP * BLOCK), h)
            tl.debug_barrier()
        if low + tiles * TILE < high:
            if SAVE > TILE:
                h = tl.load(kept + tiles * (NP * BLOCK))
            r, dA, dD, dbias = _backward_tile(
                h, r, dA, dD, dbias, x, delta, z, grad, B, C, A2, skip, bias, mask, mask_at, dx, ddelta, dz, dB, dC,
                states_at, first, low + tiles * TILE, length, step, e, n,
                E, N, NP, BLOCK, TILE, XS, DS, ZS, GS, BS, CS, SOFTPLUS, True,
            )  # fmt: skip
        i = tiles - 1
        while i >= 0:
            if SAVE > TILE:
                h = tl.load(kept + i * (NP * BLOCK))
            r, dA, dD, dbias = _backward_tile(
                h, r, dA, dD, dbias, x, delta, z, grad, B, C, A2, skip, bias, mask, mask_at, dx, ddelta, dz, dB, dC,
                states_at, first, low + i * TILE, length, step, e, n,
                E, N, NP, BLOCK, TILE, XS, DS, ZS, GS, BS, CS, SOFTPLUS, False,
            )  # fmt: skip
            i -= 1
        if SAVE > TILE:
            tl.debug_barrier()
        low -= SAVE
    at = small + (item * num_chunks + chunk) * ((N + 2) * E)
    tl.store(at + grid_states, dA, mask=here)
    tl.store(at + N * E + e, dD, mask=e < E)
    tl.store(at + (N + 1) * E + e, dbias, mask=e < E)
    if dh0 is not None:
        if chunk == 0:
            tl.store(dh0 + item * (N * E) + grid_states, r, mask=here)
