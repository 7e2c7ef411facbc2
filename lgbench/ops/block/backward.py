"""Triton kernels of the fused Mamba block, backward: adjoints of the chunks, then gradients token by token.

    chunk_adjoints   adjoint of each chunk's start, with nothing coming from later chunks; gradient of y
    scan_gradients   gradients of s, B and C; of each weight between s and y, one partial sum per chunk
    add_rows         the sum of the partial sums

Between the first two runs `carry` of `mamba_block_forward`, from the last chunk to the first, after them
`projection_gradients` of `mamba_block_projections`. The forward kept the state at the start of each tile; the
others are computed again.

Sizes: B batch, L length, DM d_model, E d_inner, N d_state, R dt_rank; Q = min(N, 4). A warp takes a chunk of
a sequence; a chunk is `TILES` tiles of `T` tokens.
"""

import triton
import triton.language as tl

from lgbench.ops.block.tiles import (
    FAR_BELOW,
    LOG2E,
    _at,
    _dot_in_parts,
    _fetch,
    _hold,
    _inner,
    _left_out,
    _model,
    _own,
    _rates,
    _row_places,
    _same,
    _shift,
    _sigmoid,
    _slot,
    _softplus_slope,
)


@triton.jit(
    do_not_specialize=[
        "length", "num_chunks", "total_chunks", "batch", "num_models", "stride", "factors_stride",
    ]
)  # fmt: skip
def chunk_adjoints(
    rows, factors, grad_out, grad_ys, adjoints, A_log, starts,
    length, num_chunks, total_chunks, batch, num_models, stride, factors_stride,
    DM: tl.constexpr, E: tl.constexpr, N: tl.constexpr, R: tl.constexpr, Q: tl.constexpr,
    T: tl.constexpr, W: tl.constexpr, TILES: tl.constexpr, HAS_STARTS: tl.constexpr,
):  # fmt: skip
    """Write the adjoint of the state at the start of each chunk, from the chunk's own outputs alone.

    Also, per token, the gradient of y.
    """
    ROW: tl.constexpr = 3 * E + 2 * N + 4
    READ: tl.constexpr = ROW - E
    model = _model(num_chunks, batch)
    if HAS_STARTS:  # noqa: SIM102 (the compiler decides this one)
        if _left_out(starts, model, num_models, num_chunks, TILES * T):
            return
    A_log += _shift(model, stride)
    factors += _shift(model, factors_stride)
    rates = _rates(A_log, N, Q, E, W)
    g = tl.zeros((E, W, N // Q, Q), tl.float32)
    d = tl.arange(0, DM)
    e = tl.arange(0, E)
    w_out = tl.load(factors + e[:, None] * DM + d[None, :])
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
        grad_y = grad_v * z * _sigmoid(z)
        own = tl.multiple_of(places[None, :, :] * E + e[:, None, None], [1, 1, 1])
        tl.store(grad_ys + own, grad_y, mask=tl.broadcast_to(inside[None, :, :], grad_y.shape))
        pushed = _inner(grad_y) * _same(rows + 2 * E + N, at, N, Q, E)
        for back_t in tl.static_range(T):
            g = _at(decay, T - 1 - back_t, T) * (g + _at(pushed, T - 1 - back_t, T))
    where, exists = _slot(adjoints, 0, 1, total_chunks, N, Q, W, E)
    tl.store(where, g, mask=exists)
    _hold(adjoints, fetched | ahead, length, E)
    _hold(adjoints, fetched_grad | ahead_grad, length, E)


@triton.jit(do_not_specialize=["length", "num_chunks", "total_chunks", "batch", "num_models", "stride"])
def scan_gradients(
    rows, grad_ys, tile_starts, adjoints, grads, partials, x_proj, dt_weight, A_log, D, starts,
    length, num_chunks, total_chunks, batch, num_models, stride,
    DM: tl.constexpr, E: tl.constexpr, N: tl.constexpr, R: tl.constexpr, Q: tl.constexpr,
    T: tl.constexpr, TILES: tl.constexpr, HAS_STARTS: tl.constexpr,
):  # fmt: skip
    """Write per token the gradients of s (`[E]`, all but what comes through B and C), of B and of C.

    Also this chunk's share of the gradients of W_dt, its bias, A_log, D and the rows of W_x for τ, in this
    order, as a row of `partials`. Programs take first the last chunks of a model's sequences, then those
    before them, so that a row's place does not depend on how long the sequences are. Tensors are
    `[E, N / Q, Q]` or `[E, 1, 1]`: channels lie across the lanes, states inside a thread. Quad j of channel e
    is the states' quad j ^ (e % (N / Q)), see `_over_channels`.
    """
    ROW: tl.constexpr = 3 * E + 2 * N + 4
    GRADS: tl.constexpr = E + 2 * N
    NQ: tl.constexpr = N // Q
    item, later = tl.program_id(0) % batch, tl.program_id(0) // batch
    model, later = later // num_chunks, later % num_chunks
    start = (num_chunks - 1 - later) * (TILES * T)
    if HAS_STARTS:  # noqa: SIM102 (the compiler decides this one)
        if start + TILES * T <= tl.load(starts + num_models + model):
            return
    item = (model * batch + item).to(tl.int64)
    shift = _shift(model.to(tl.int64), stride)
    x_proj, dt_weight, A_log, D = x_proj + shift, dt_weight + shift, A_log + shift, D + shift
    lane = tl.arange(0, E)
    e = lane[:, None, None]
    n = (tl.arange(0, NQ)[None, :, None] ^ (e & (NQ - 1))) * Q + tl.arange(0, Q)[None, None, :]
    state = n // Q * (E * Q) + e * Q + n % Q
    rates = -tl.exp2(tl.load(A_log + e * N + n) * LOG2E) * LOG2E
    skip = tl.load(D + e)
    w_tau1, w_tau2 = tl.load(x_proj + e), tl.load(x_proj + (R - 1) * E + e)
    w_dt1, w_dt2 = tl.load(dt_weight + e * R), tl.load(dt_weight + e * R + R - 1)
    chunk = item * num_chunks + (num_chunks - 1 - later)
    first = item * length + start
    g = tl.load(adjoints + chunk * (N * E) + state)
    sum_rates = tl.zeros_like(g)
    zero = tl.zeros_like(skip)
    sum_bias, sum_skip, sum_dt1, sum_dt2, sum_tau1, sum_tau2 = zero, zero, zero, zero, zero, zero
    fetched = tl.zeros((E,), tl.int32)
    for back in tl.range(TILES, num_stages=1):
        tile = TILES - 1 - back
        place = first + tile * T
        row = rows + place * ROW
        left = length - start - tile * T
        # B and C are read again after writes, which no read overtakes: fetch what is new among them now
        late = lane % (4 * T) // 4 * ROW + 2 * E + N + tl.minimum(lane % 4 * 8, N + 3)
        fetched |= tl.load(row + late).to(tl.int32, bitcast=True)
        h = tl.load(tile_starts + (chunk * TILES + tile) * (N * E) + state)
        kept, of_b, of_c = (), (), ()
        for t in tl.static_range(T):
            a = tl.load(row + t * ROW + e)
            s = a * _sigmoid(a)
            delta = tl.where(t < left, tl.load(row + (t * ROW + E) + e), 0.0)
            grad_y = tl.where(t < left, tl.load(grad_ys + (place + t) * E + e), 0.0)
            decay = tl.exp2(delta * rates)
            kept += ((s, delta, grad_y, decay, h),)
            h = decay * h + delta * s * tl.load(row + (t * ROW + 2 * E) + n)
            of_c += (_over_channels(h * grad_y, N, Q, E),)
        grad_c = _over_rest(of_c, N, T, E)
        for back_t in tl.static_range(T):
            s, delta, grad_y, decay, h = kept[T - 1 - back_t]
            here = row + (T - 1 - back_t) * ROW + 2 * E
            g += grad_y * tl.load(here + N + n)
            of_b = (_over_channels(g * (delta * s), N, Q, E),) + of_b  # noqa: RUF005
            grad_input = _sum_states(g * tl.load(here + n))
            g *= decay
            through = g * h
            sum_rates += through * delta
            grad_pre = (_sum_states(through * rates) / LOG2E + s * grad_input) * _softplus_slope(delta)
            sum_bias += grad_pre
            sum_skip += grad_y * s
            grad_s = delta * grad_input + skip * grad_y
            sum_dt1 += grad_pre * tl.load(here + 2 * N)
            grad_tau = tl.sum(grad_pre * w_dt1, axis=0)[None, :, :]
            sum_tau1 += grad_tau * s
            grad_s += grad_tau * w_tau1
            if R == 2:
                sum_dt2 += grad_pre * tl.load(here + 2 * N + 1)
                grad_tau = tl.sum(grad_pre * w_dt2, axis=0)[None, :, :]
                sum_tau2 += grad_tau * s
                grad_s += grad_tau * w_tau2
            tl.store(grads + (place + (T - 1 - back_t)) * GRADS + e, grad_s, mask=T - 1 - back_t < left)
        t = (lane // N % T)[:, None]
        where = grads + (place + t) * GRADS + E + (lane % NQ * Q + lane // NQ % Q)[:, None]
        real = (t < left) & (lane < T * N)[:, None]
        tl.store(where, _over_rest(of_b, N, T, E), mask=real)
        tl.store(where + N, grad_c, mask=real)

    row = partials + tl.program_id(0).to(tl.int64) * (E * (2 * R + N + 2))
    tl.store(row + e * R, sum_dt1)
    if R == 2:
        tl.store(row + e * R + 1, sum_dt2)
    row += R * E
    tl.store(row + e, sum_bias)
    tl.store(row + E + e * N + n, sum_rates * (rates / LOG2E))
    row += E + E * N
    tl.store(row + e, sum_skip)
    tl.store(row + E + e, sum_tau1)
    if R == 2:
        tl.store(row + 2 * E + e, sum_tau2)
    tl.store(partials + fetched, 0.0, mask=tl.broadcast_to(length < 0, fetched.shape))


@triton.jit
def _sum_states(tile):
    return tl.sum(tl.sum(tile, axis=2), axis=1)[:, None, None]


@triton.jit
def _over_channels(tile, N: tl.constexpr, Q: tl.constexpr, E: tl.constexpr):
    """Sum `[E, NQ, Q]` over each N channels, NQ = N / Q: `[E, 1]`, where e has state e % NQ · Q + e / NQ % Q.

    Lanes exchange halves of what they hold. Where quads are laid out as in `scan_gradients`, each lane gives
    away its upper half; within a quad half of the lanes give the lower one, which takes two choices more.
    """
    NQ: tl.constexpr = N // Q
    e = tl.arange(0, E)[:, None, None]
    sums = tile
    for bit in tl.static_range(2):
        if (2 << bit) <= NQ:
            halves = tl.reshape(sums, (E, NQ >> (bit + 1), 2, Q))
            kept, given = tl.split(tl.permute(halves, (0, 1, 3, 2)))
            sums = kept + tl.gather(given, tl.broadcast_to(e ^ (1 << bit), given.shape), 0)
    sums = tl.reshape(sums, (E, Q))
    for bit in tl.static_range(2):
        if (2 << bit) <= Q:
            sums = _halved(sums, Q >> bit, (NQ >> 1) + bit, E)
    return sums


@triton.jit
def _over_rest(parts, N: tl.constexpr, T: tl.constexpr, E: tl.constexpr):
    """Sum what `_over_channels` left of T tokens over the other channels: `[E, 1]`, e has token e / N % T."""
    if T == 4:
        sums = tl.join(tl.join(parts[0], parts[2]), tl.join(parts[1], parts[3]))
    else:
        sums = tl.join(parts[0], parts[1])
    sums = tl.reshape(sums, (E, T))
    for bit in tl.static_range(6):
        if (1 << bit) >= N and (1 << bit) < N * T:
            sums = _halved(sums, N * T >> bit, bit, E)
        elif (1 << bit) >= N * T and (1 << bit) < E:
            e = tl.arange(0, E)[:, None]
            sums += tl.gather(sums, tl.broadcast_to(e ^ (1 << bit), sums.shape), 0)
    return sums


@triton.jit
def _halved(sums, COUNT: tl.constexpr, BIT: tl.constexpr, E: tl.constexpr):
    """Add up `[E, COUNT]` of each two channels that differ in `BIT`; the one with 1 gets what is odd."""
    e = tl.arange(0, E)[:, None]
    low, high = tl.split(tl.reshape(sums, (E, COUNT // 2, 2)))
    upper = (e >> BIT) & 1 != 0
    kept, given = tl.where(upper, high, low), tl.where(upper, low, high)
    return kept + tl.gather(given, tl.broadcast_to(e ^ (1 << BIT), given.shape), 0)


@triton.jit(
    do_not_specialize=[
        "num_rows", "num_columns", "total_stride", "length", "batch", "num_models", "unit", "group",
    ]
)  # fmt: skip
def add_rows(
    partials, total, starts, num_rows, num_columns, total_stride, length, batch, num_models, unit, group,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, HAS_STARTS: tl.constexpr,
):  # fmt: skip
    """Add a model's rows of `partials`, always in the same order.

    A row is of `group` pieces, a piece of `unit` tokens, counted from the end of the sequences, all `batch`
    last pieces first. Those of pieces without a real token, never written, come last and are left out.
    """
    blocks = tl.cdiv(num_columns, COLUMNS)
    model = (tl.program_id(0) // blocks).to(tl.int64)
    partials += model * num_rows * num_columns
    total += model * total_stride
    if HAS_STARTS:
        left = length - tl.load(starts + num_models + model)
        num_rows = tl.cdiv(tl.cdiv(left, unit) * batch, group)
    column = tl.program_id(0) % blocks * COLUMNS + tl.arange(0, COLUMNS)
    exists = column < num_columns
    sums = tl.zeros((ROWS, COLUMNS), tl.float32)
    begin = 0
    while begin < num_rows:
        row = begin + tl.arange(0, ROWS)
        where = partials + row.to(tl.int64)[:, None] * num_columns + column[None, :]
        sums += tl.load(where, mask=(row < num_rows)[:, None] & exists[None, :], other=0.0)
        begin += ROWS
    tl.store(total + column, tl.sum(sums, axis=0), mask=exists)
