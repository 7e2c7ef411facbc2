"""Triton kernels of the forward scan: one chunk of time for 32 channels, and the carry from chunk to chunk.

A program is one warp; a lane is one channel with all its states in registers, so that the recurrence and the
sum over states need no exchange between lanes. Rows of x, Δ, z are one coalesced access each. Rows of B and C
are the same for all channels: they are read a lane a number and handed round by shuffles, since a load in
each step would wait for the cache each time. A tile is TILE steps; the next is loaded while one is computed.

Names: E channels, N states, NP the power of two that holds them, BLOCK = 32 lanes, XS, DS, ... row strides
of x, Δ, ...; a position is a row of a `(B·L, ...)` array, always 64 bit. Steps past the end have Δ = 0 and
leave the state alone. The pointers' alignment is kept from Triton: it would spread a row over few lanes to
read 16 bytes in each, and then move every number back through shared memory.
"""

import triton
import triton.language as tl

BLOCK = 32
# Stands on the right of a tensor: a constexpr on the left makes a constexpr in Triton 3.7's interpreter.
LOG2E = tl.constexpr(1.4426950408889634)
SIZES = ("length", "chunk_length", "num_chunks", "batch", "mask_stride")
POINTERS = (
    "x", "delta", "z", "out", "B", "C", "A", "D", "delta_bias", "mask", "h0", "state", "summary", "saved",
)  # fmt: skip


def padded_states(states: int) -> int:
    """NP: a power of two from 4 to 32, so that a warp holds whole rows of B."""
    return max(4, 1 << (states - 1).bit_length())


@triton.jit(do_not_specialize=SIZES, do_not_specialize_on_alignment=POINTERS)
def forward_kernel(
    x, delta, z, out, B, C, A, D, delta_bias, mask, h0, state, summary, saved,
    length, chunk_length, num_chunks, mask_stride,
    E: tl.constexpr, N: tl.constexpr, NP: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr, SAVE:
    tl.constexpr,
    XS: tl.constexpr, DS: tl.constexpr, ZS: tl.constexpr, BS: tl.constexpr, CS: tl.constexpr,
    SOFTPLUS: tl.constexpr, OUTPUT: tl.constexpr,
):  # fmt: skip
    """One chunk of one block of channels: outputs and states if OUTPUT, else only its summary.

    summary `(B, num_chunks, N + 1, E)`: first the state that each chunk ends with from zero and, in row N,
    ΣΔ; after `carry_kernel` the true state after each chunk. saved `(B, ceil(L / SAVE), N, E)`: the states
    for the backward.
    """
    BLOCKS: tl.constexpr = (E + BLOCK - 1) // BLOCK
    program = tl.program_id(0)
    chunks_run = num_chunks if OUTPUT else num_chunks - 1
    chunk = (program // BLOCKS) % chunks_run
    item = (program // BLOCKS // chunks_run).to(tl.int64)
    lane = tl.arange(0, BLOCK)
    e = (program % BLOCKS) * BLOCK + lane
    n = tl.arange(0, NP)[:, None]
    here = (e[None, :] < E) & (n < N)
    step = tl.arange(0, TILE)[:, None]
    A2 = tl.load(A + e[None, :] * N + n, mask=here, other=0.0).to(tl.float32) * LOG2E
    bias, skip = per_channel(delta_bias, e, E), per_channel(D, e, E)
    total = tl.zeros([BLOCK], tl.float32)
    h = tl.zeros([NP, BLOCK], tl.float32)
    summary_at = summary + (item * num_chunks + chunk) * ((N + 1) * E) + n * E + e[None, :]
    if OUTPUT:
        h = enter(h0, summary_at - (N + 1) * E, chunk == 0, item, h, e, n, here, E, N)
    first, mask_at = item * length, item * mask_stride
    begin = chunk * chunk_length
    end = tl.minimum(begin + chunk_length, length)
    full = begin + (end - begin) // TILE * TILE
    if begin < full:
        xs, raw, zs, Bs, Cs = load_forward(
            x, delta, z, B, C, first, begin, length, step, e, lane,
            E, N, NP, BLOCK, TILE, XS, DS, ZS, BS, CS, OUTPUT, False,
        )  # fmt: skip
        t = begin
        while t < full:
            x_next, raw_next, z_next, B_next, C_next = load_forward(
                x, delta, z, B, C, first, tl.minimum(t + TILE, full - TILE), length, step, e, lane,
                E, N, NP, BLOCK, TILE, XS, DS, ZS, BS, CS, OUTPUT, False,
            )  # fmt: skip
            if saved is not None:  # noqa: SIM102 (decided at compile time, the inner one at run time)
                if t % SAVE == 0:
                    tl.store(_saved_at(saved, item, t, length, n, e, E, N, SAVE), h, mask=here)
            h, total = forward_tile(
                h, total, xs, raw, zs, Bs, Cs, z, out, A2, D, skip, bias, mask, mask_at, first, t, length,
                step, e, n,
                E, NP, BLOCK, TILE, SOFTPLUS, OUTPUT, False,
            )  # fmt: skip
            xs, raw, zs, Bs, Cs = x_next, raw_next, z_next, B_next, C_next
            t += TILE
    if full < end:
        xs, raw, zs, Bs, Cs = load_forward(
            x, delta, z, B, C, first, full, length, step, e, lane,
            E, N, NP, BLOCK, TILE, XS, DS, ZS, BS, CS, OUTPUT, True,
        )  # fmt: skip
        if saved is not None:  # noqa: SIM102
            if full % SAVE == 0:
                tl.store(_saved_at(saved, item, full, length, n, e, E, N, SAVE), h, mask=here)
        h, total = forward_tile(
            h, total, xs, raw, zs, Bs, Cs, z, out, A2, D, skip, bias, mask, mask_at, first, full, length,
            step, e, n,
            E, NP, BLOCK, TILE, SOFTPLUS, OUTPUT, True,
        )  # fmt: skip
    if OUTPUT:
        if end == length:
            tl.store(state + (item * E + e[None, :]) * N + n, h, mask=here)
    else:
        tl.store(summary_at, h, mask=here)
        tl.store(summary + (item * num_chunks + chunk) * ((N + 1) * E) + N * E + e, total, mask=e < E)


@triton.jit
def _saved_at(saved, item, t, length, n, e, E: tl.constexpr, N: tl.constexpr, SAVE: tl.constexpr):
    return saved + (item * tl.cdiv(length, SAVE) + t // SAVE) * (N * E) + n * E + e[None, :]


@triton.jit
def enter(outer, before, at_the_end, item, zero, e, n, here, E: tl.constexpr, N: tl.constexpr):
    """What enters a chunk: `outer` `(B, E, N)` or zero at the end, else what left its neighbour."""
    value = zero
    if at_the_end:
        if outer is not None:
            value = tl.load(outer + (item * E + e[None, :]) * N + n, mask=here, other=0.0).to(tl.float32)
    else:
        value = tl.load(before, mask=here, other=0.0)
    return value


@triton.jit
def per_channel(pointer, e, E: tl.constexpr):
    """A `(E,)` parameter as float32 in the shape of e, zero where there is none."""
    values = tl.zeros(e.shape, tl.float32)
    if pointer is not None:
        values = tl.load(pointer + e, mask=e < E, other=0.0).to(tl.float32)
    return values


@triton.jit
def softplus(v):
    """log(1 + exp(v)), relative error 2e-7 for any v: max(v, 0) + log1p(e) with e = exp(-|v|) in (0, 1]."""
    e = tl.exp2(tl.abs(v) * -LOG2E)
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
def sigmoid(v):
    """1 / (1 + exp(-v))."""
    return 1.0 / (1.0 + tl.exp2(v * -LOG2E))


@triton.jit
def row(tile, index, k: tl.constexpr):
    """Row k of a float32 tile; free where each lane holds whole columns, as the compiler sees through it."""
    bits = tl.where(index == k, tile.to(tl.int32, bitcast=True), 0)
    return tl.sum(bits, 0).to(tl.float32, bitcast=True)


@triton.jit
def inside(t, step, length, e, E: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr):
    """Which of the tile's `(TILE, BLOCK)` places exist."""
    ok = tl.broadcast_to(t + step < length, [TILE, BLOCK])
    return ok if E % BLOCK == 0 else ok & (e[None, :] < E)


@triton.jit
def load_rows(pointer, position, STRIDE: tl.constexpr, step, e, ok, MASKED: tl.constexpr):
    """Rows `position + step` of a `(B·L, E)` array, `(TILE, BLOCK)` in its own type."""
    pointers = pointer + position * STRIDE + (step * STRIDE + e[None, :])
    return tl.load(pointers, mask=ok, other=0.0) if MASKED else tl.load(pointers)


@triton.jit
def store_rows(pointer, position, STRIDE: tl.constexpr, step, e, values, ok, MASKED: tl.constexpr):
    """Write `(TILE, BLOCK)` to rows `position + step`, in the array's type."""
    pointers = pointer + position * STRIDE + (step * STRIDE + e[None, :])
    if MASKED:
        tl.store(pointers, values.to(pointer.dtype.element_ty), mask=ok)
    else:
        tl.store(pointers, values.to(pointer.dtype.element_ty))


@triton.jit
def load_packed(
    pointer, position, STRIDE: tl.constexpr, lane, t, length,
    N: tl.constexpr, NP: tl.constexpr, TILE: tl.constexpr, TAIL: tl.constexpr,
):  # fmt: skip
    """TILE rows of B or C, a number a lane: `(TILE·NP / 32, 32)` in its own type, `unpack` undoes it."""
    group = tl.arange(0, TILE * NP // 32)[:, None]
    step, state = group * (32 // NP) + lane[None, :] // NP, lane[None, :] % NP
    pointers = pointer + position * STRIDE + (step * STRIDE + state)
    if TAIL or NP != N:
        return tl.load(pointers, mask=(t + step < length) & (state < N), other=0.0)
    else:
        return tl.load(pointers)


@triton.jit
def unpack(packed, k: tl.constexpr, n, NP: tl.constexpr, TILE: tl.constexpr):
    """Row k of B or C for every lane, `(NP, 32)`: one shuffle a number."""
    group = tl.arange(0, TILE * NP // 32)[:, None]
    held = tl.broadcast_to(row(packed, group, k // (32 // NP))[None, :], [NP, 32])
    return tl.gather(held, tl.broadcast_to(k % (32 // NP) * NP + n, [NP, 32]), 1)


@triton.jit
def time_step(raw, bias, mask, mask_at, t, length, step, SOFTPLUS: tl.constexpr, TAIL: tl.constexpr):
    """Raw Δ with bias, and the Δ of the recurrence: after softplus, zero at masked steps and past the end."""
    v = raw.to(tl.float32) + bias[None, :]
    dt = softplus(v) if SOFTPLUS else v
    if TAIL:
        dt = tl.where(t + step < length, dt, 0.0)
    if mask is not None:
        keep = tl.load(mask + mask_at + t + step, mask=t + step < length, other=0)
        dt = tl.where(keep != 0, dt, 0.0)
    return v, dt


@triton.jit
def load_forward(
    x, delta, z, B, C, first, t, length, step, e, lane,
    E: tl.constexpr, N: tl.constexpr, NP: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr,
    XS: tl.constexpr, DS: tl.constexpr, ZS: tl.constexpr, BS: tl.constexpr, CS: tl.constexpr,
    OUTPUT: tl.constexpr, TAIL: tl.constexpr,
):  # fmt: skip
    """Everything that a tile reads, in its own types; what is not needed repeats what is."""
    MASKED: tl.constexpr = TAIL or E % BLOCK != 0
    ok = inside(t, step, length, e, E, BLOCK, TILE)
    position = first + t
    xs = load_rows(x, position, XS, step, e, ok, MASKED)
    raw = load_rows(delta, position, DS, step, e, ok, MASKED)
    Bs = load_packed(B, position, BS, lane, t, length, N, NP, TILE, TAIL)
    zs, Cs = xs, Bs
    if OUTPUT:
        Cs = load_packed(C, position, CS, lane, t, length, N, NP, TILE, TAIL)
        if z is not None:
            zs = load_rows(z, position, ZS, step, e, ok, MASKED)
    return xs, raw, zs, Bs, Cs


@triton.jit
def forward_tile(
    h, total, xs, raw, zs, Bs, Cs, z, out, A2, D, skip, bias, mask, mask_at, first, t, length, step, e, n,
    E: tl.constexpr, NP: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr,
    SOFTPLUS: tl.constexpr, OUTPUT: tl.constexpr, TAIL: tl.constexpr,
):  # fmt: skip
    """TILE steps from t on. Returns the state after them and ΣΔ so far; writes the outputs if OUTPUT."""
    _, dt = time_step(raw, bias, mask, mask_at, t, length, step, SOFTPLUS, TAIL)
    xs, Bs, Cs = xs.to(tl.float32), Bs.to(tl.float32), Cs.to(tl.float32)
    dtx = dt * xs
    ys = tl.zeros([TILE, BLOCK], tl.float32)
    for k in tl.static_range(TILE):
        dtk = row(dt, step, k)
        h = tl.exp2(dtk[None, :] * A2) * h + row(dtx, step, k)[None, :] * unpack(Bs, k, n, NP, TILE)
        total += dtk
        if OUTPUT:
            ys = tl.where(step == k, tl.sum(h * unpack(Cs, k, n, NP, TILE), 0)[None, :], ys)
    if OUTPUT:
        if D is not None:
            ys += skip[None, :] * xs
        if z is not None:
            zs = zs.to(tl.float32)
            ys *= zs * sigmoid(zs)
        ok = inside(t, step, length, e, E, BLOCK, TILE)
        store_rows(out, first + t, E, step, e, ys, ok, TAIL or E % BLOCK != 0)
    return h, total


@triton.jit
def _then(decay1, state1, decay2, state2):
    """First stretch 1, then stretch 2."""
    return decay1 * decay2, decay2 * state1 + state2


@triton.jit(do_not_specialize=SIZES, do_not_specialize_on_alignment=("summary", "A", "outer"))
def carry_kernel(
    summary, A, outer, num_chunks,
    E: tl.constexpr, N: tl.constexpr, TILE: tl.constexpr, COLUMNS: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """Replace, in place, what each chunk adds to the state by the state that leaves it; TILE chunks at once.

    Time runs from the last chunk to the first if REVERSE; outer `(B, E, N)` is what enters the sequence. The
    chunk that is last in this order has no reader and is left out.
    """
    BLOCKS: tl.constexpr = (N * E + COLUMNS - 1) // COLUMNS
    program = tl.program_id(0)
    item = (program // BLOCKS).to(tl.int64)
    column = (program % BLOCKS) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < N * E
    e, n = column % E, column // E
    A2 = tl.load(A + e * N + n, mask=inside, other=0.0).to(tl.float32) * LOG2E
    entering = tl.zeros([COLUMNS], tl.float32)
    if outer is not None:
        entering = tl.load(outer + (item * E + e) * N + n, mask=inside, other=0.0).to(tl.float32)
    place = tl.arange(0, TILE)[:, None]
    begin = 0
    while begin < num_chunks - 1:
        ok = (begin + place < num_chunks - 1) & inside[None, :]
        chunk = (num_chunks - 1 - begin - place) if REVERSE else (begin + place)
        at = summary + (item * num_chunks + chunk) * ((N + 1) * E)
        total = tl.load(at + N * E + e[None, :], mask=ok, other=0.0)
        b = tl.load(at + column[None, :], mask=ok, other=0.0)
        a = tl.exp2(total * A2[None, :])
        b = tl.where(place == 0, a * entering[None, :] + b, b)
        _, b = tl.associative_scan((a, b), 0, _then)
        tl.store(at + column[None, :], b, mask=ok)
        entering = tl.sum(tl.where(place == TILE - 1, b, 0.0), 0)
        begin += TILE
