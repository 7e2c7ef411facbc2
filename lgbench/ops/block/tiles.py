"""What the kernels of the fused Mamba block share: a tile of tokens in registers, its loads, its arithmetic.

Sizes: B batch, L length, DM d_model, E d_inner, N d_state, R dt_rank; Q = min(N, 4). Tiles are `[E, W, T]`
or `[E, W, T, K / Q, Q]`: channels lie across the lanes of a warp, everything else inside a thread, so that a
step of the recurrence and the sum over states exchange nothing between threads. All accesses to memory are
shaped so that the compiler chooses this layout everywhere: an odd order of axes serves that, and so does a
hint that denies wide accesses where they would give a thread several channels.
"""

import triton
import triton.language as tl

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
def _softplus_slope(y):
    """Derivative of the softplus where it is y: 1 - exp(-y), to 2e-7 of itself for every y >= 0."""
    p = 0.16666242 + y * (-0.04163007 + y * (0.00818961 + y * -0.0011234))
    return tl.where(y < 0.5, y + y * y * (-0.49999982 + y * p), 1.0 - tl.exp2(-y * LOG2E))


@triton.jit
def _parts(x):
    """A number as the sum of two that a tensor core takes: 11 leading bits, and 11 of what is left."""
    high = ((x.to(tl.int32, bitcast=True) + 4096) & -8192).to(tl.float32, bitcast=True)
    return high, x - high


@triton.jit
def _dot_with_parts(a, b_high, b_low):
    """The product of a with the sum of both parts of b on tensor cores, to about 2^-22 of its size."""
    high, low = _parts(a)
    product = tl.dot(low, b_high, input_precision="tf32")
    product = tl.dot(high, b_low, product, input_precision="tf32")
    return tl.dot(high, b_high, product, input_precision="tf32")


@triton.jit
def _dot_in_parts(a, b):
    """A product on tensor cores with the accuracy of float32."""
    high, low = _parts(b)
    return _dot_with_parts(a, high, low)


@triton.jit
def _at(tile, t: tl.constexpr, T: tl.constexpr):
    """Time step `t` of a tile. Time lies inside a thread and whole zeros add for free: nothing moves."""
    bits = tl.where(tl.arange(0, T)[None, None, :, None, None] == t, tile.to(tl.int32, bitcast=True), 0)
    return tl.sum(bits, axis=2).to(tl.float32, bitcast=True)


@triton.jit
def _model(num_chunks, batch):
    """The model that a program's chunk belongs to; each has `batch` sequences."""
    return (tl.program_id(0) // (num_chunks * batch)).to(tl.int64)


@triton.jit
def _shift(model, stride):
    """From the first model's numbers to those of a model, aligned as the first one's are."""
    return tl.multiple_of(model * stride, 16)


@triton.jit
def _left_out(starts, model, num_models, num_chunks, chunk):
    """Whether a program's chunk has no real token: it ends where the model's first chunk with one begins.

    Of each model `starts` has the first real step, then, after those of all models, the same rounded down to
    a chunk.
    """
    return (tl.program_id(0) % num_chunks + 1) * chunk <= tl.load(starts + num_models + model)


@triton.jit
def _starts(tile, num_chunks, total_chunks, TILES: tl.constexpr, T: tl.constexpr, W: tl.constexpr):
    """Of a tile in each of the `[W]` chunks: its sequence, its first step, and whether the chunk exists."""
    chunk = tl.program_id(0) * W + tl.arange(0, W)
    exists = chunk < total_chunks
    chunk = tl.minimum(chunk, total_chunks - 1)
    return (chunk // num_chunks).to(tl.int64), ((chunk % num_chunks) * TILES + tile) * T, exists


@triton.jit
def _row_places(
    tile, length, num_chunks, total_chunks, TILES: tl.constexpr, T: tl.constexpr, W: tl.constexpr
):
    """As `_places`, but with places after the end, where only rows go on: addresses are simpler so."""
    item, start, exists = _starts(tile, num_chunks, total_chunks, TILES, T, W)
    t = tl.arange(0, T)[None, :]
    return (item * length + start)[:, None] + t, (start[:, None] + t < length) & exists[:, None]


@triton.jit
def _fetch(
    rows, tile, length, num_chunks, total_chunks,
    FIRST: tl.constexpr, COUNT: tl.constexpr, ROW: tl.constexpr,
    T: tl.constexpr, W: tl.constexpr, TILES: tl.constexpr, E: tl.constexpr, WITHIN: tl.constexpr,
):  # fmt: skip
    """Read one number in every 32 bytes of a tile's rows, from the FIRST to the COUNT that follow.

    `WITHIN` keeps to the sequence, where what is read ends with it.
    A scan waits for memory in each of its tiles, unless what the next one reads is on its way already. What
    comes back, `[E, W, k]` integers, has no meaning; `_hold` keeps the compiler from leaving it out.
    """
    PARTS: tl.constexpr = (COUNT + 14) // 8
    ROUNDS: tl.constexpr = 1 if T * PARTS <= E else 2 if T * PARTS <= 2 * E else 4
    item, start, _ = _starts(tile, num_chunks, total_chunks, TILES, T, W)
    part = tl.arange(0, E)[:, None, None] + tl.arange(0, ROUNDS)[None, None, :] * E
    part = tl.minimum(part, T * PARTS - 1)
    step = start[None, :, None] + part // PARTS
    if WITHIN:
        step = tl.minimum(step, length - 1)
    where = (item[None, :, None] * length + step) * ROW + FIRST + tl.minimum(part % PARTS * 8, COUNT - 1)
    return tl.load(rows + tl.multiple_of(where, [1, 1, 1])).to(tl.int32, bitcast=True)


@triton.jit
def _hold(ptr, fetched, length, E: tl.constexpr):
    """Write nothing, for no length is negative; but what was fetched decides where."""
    where = ptr + tl.arange(0, E)[:, None, None] + fetched
    tl.store(where, 0.0, mask=tl.broadcast_to(length < 0, where.shape))


@triton.jit
def _same(ptr, at, K: tl.constexpr, Q: tl.constexpr, E: tl.constexpr):
    """`K` numbers of each token, the same for all channels: `[E, W, T, K // Q, Q]`."""
    k = tl.arange(0, K // Q)[:, None] * Q + tl.arange(0, Q)[None, :]
    where = (ptr + at)[None, :, :, None, None] + k[None, None, None, :, :]
    where += tl.zeros((E,), tl.int32)[:, None, None, None, None]
    return tl.load(where)


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
