"""The dense half of the fused Mamba block's backward, in Triton: adjoints of projections and norm.

    s      = SiLU(a),  [a ; z] = W_in u,  u = RMSNorm(x),  [τ ; B ; C] = W_x s,  out = x + W_out (y ∘ SiLU(z))

All products run on tensor cores in parts (see `_parts`). A warp takes `M` tokens at a time, all by itself. A
tile of numbers `[tokens, channels]` is read as tensor cores leave their results: a thread has two neighbours
in a row, 4 threads a block of 8 channels, 8 rows a warp. Where tensor cores want it otherwise, one of two
things keeps numbers in their threads: the order of the summed index is changed, in both factors (`_paired`),
or the tile is read once more, by columns.

Sizes: DM d_model, E d_inner, N d_state, R dt_rank; K = 2 N, at least 16.
"""

import triton
import triton.language as tl

from lgbench.ops.block.tiles import _parts, _shift, _sigmoid


@triton.jit(
    do_not_specialize=["length", "batch", "tiles", "programs", "num_models", "stride", "factors_stride"]
)
def projection_gradients(
    tokens, rows, gated, slopes, grads, grad_out, grad_tokens, factors, partials, norm_weight, starts, eps,
    length, batch, tiles, programs, num_models, stride, factors_stride,
    DM: tl.constexpr, E: tl.constexpr, N: tl.constexpr, R: tl.constexpr, Q: tl.constexpr, M: tl.constexpr,
    HAS_STARTS: tl.constexpr,
):  # fmt: skip
    """Write the gradient of the tokens and this program's share of those of norm and projections.

    A program takes `tiles` times `M` tokens of a sequence, counted from its end: the last ones of all `batch`
    sequences of a model, then those before them. So a sum does not depend on how far a sequence is padded on
    the left. A row of `partials` holds the gradients of the part of W_x for B
    and C, of the norm's gain, of W_in and of W_out.
    """
    ROW: tl.constexpr = 3 * E + 2 * N + 4
    GRADS: tl.constexpr = E + 2 * N
    K: tl.constexpr = 2 * N if N >= 8 else 16
    model = (tl.program_id(0) // programs).to(tl.int64)
    program = tl.program_id(0) % programs
    first = 0
    if HAS_STARTS:
        first = tl.load(starts + num_models + model)
        if length - program * tiles // batch * M <= first:
            return
    factors += _shift(model, factors_stride)
    norm_weight += _shift(model, stride)
    d = tl.arange(0, DM)
    e = tl.arange(0, E)
    k = tl.arange(0, K)
    gain = tl.load(norm_weight + d)[None, :]
    sum_x = tl.zeros((E, K), tl.float32)
    sum_norm = tl.zeros((M, DM), tl.float32)
    sum_a = tl.zeros((E, DM), tl.float32)
    sum_z = tl.zeros((E, DM), tl.float32)
    sum_out = tl.zeros((E, DM), tl.float32)
    tile = 0
    while tile < tiles:
        piece = program * tiles + tile
        step = length - (piece // batch + 1) * M
        missing = first - step
        token = (model * batch + piece % batch) * length + step
        x = _tile(tokens, token, DM, missing, M, DM, DM)
        scale = tl.rsqrt(tl.sum(x * x, axis=1) / DM + eps)[:, None]
        unit = x * scale
        x_columns = _columns(tokens, token, DM, missing, M, DM, DM)
        scale_paired = _paired(tl.trans(scale), 1, M)
        unit_high, unit_low = _parts(tl.trans(x_columns * scale_paired))

        grad_x = _tile(grad_out, token, DM, missing, M, DM, DM)
        high, low = _parts(_paired(grad_x, M, DM))
        grad_v = tl.zeros((M, E), tl.float32)
        grad_v = _add_product(grad_v, high, low, factors + DM * E, DM, E)
        high, low = _parts(_columns(gated, token, E, missing, M, E, E))
        pull_high, pull_low = _parts(tl.trans(_columns(grad_out, token, DM, missing, M, DM, DM)))
        sum_out = _add_parts(sum_out, high, low, pull_high, pull_low)

        grad_z = grad_v * _tile(slopes, token, E, missing, M, E, E)
        high, low = _parts(grad_z)
        across_high, across_low = _paired(tl.trans(high), E, M), _paired(tl.trans(low), E, M)
        sum_z = _add_parts(sum_z, across_high, across_low, unit_high, unit_low)
        high, low = _paired(high, M, E), _paired(low, M, E)
        grad_u = tl.zeros((M, DM), tl.float32)
        grad_u = _add_product(grad_u, high, low, factors + 5 * DM * E, E, DM)

        a = _tile(rows, token, ROW, missing, M, E, E)
        sig = _sigmoid(a)
        high, low = _parts(_paired(_tile(grads + E, token, GRADS, missing, M, K, 2 * N), M, K))
        grad_s = _tile(grads, token, GRADS, missing, M, E, E)
        grad_s = _add_product(grad_s, high, low, factors + 7 * DM * E, K, E)
        grad_a = grad_s * sig * (1.0 + a * (1.0 - sig))
        a = _columns(rows, token, ROW, missing, M, E, E)
        high, low = _parts(a * _sigmoid(a))
        pull_high, pull_low = _parts(tl.trans(_columns(grads + E, token, GRADS, missing, M, K, 2 * N)))
        sum_x = _add_parts(sum_x, high, low, pull_high, pull_low)

        high, low = _parts(grad_a)
        across_high, across_low = _paired(tl.trans(high), E, M), _paired(tl.trans(low), E, M)
        sum_a = _add_parts(sum_a, across_high, across_low, unit_high, unit_low)
        high, low = _paired(high, M, E), _paired(low, M, E)
        grad_u = _add_product(grad_u, high, low, factors + 3 * DM * E, E, DM)

        sum_norm += grad_u * unit
        grad_unit = grad_u * gain
        mean = tl.sum(grad_unit * unit, axis=1)[:, None] / DM
        found = tl.reshape(grad_x + scale * (grad_unit - unit * mean), (M // 8, 8, DM // 8, 8))
        where, _ = _places(token, DM, missing, M, DM, DM)
        inside = tl.broadcast_to(_tile_steps(step, M) >= 0, where.shape)
        tl.store(grad_tokens + where, tl.permute(found, (1, 0, 2, 3)), mask=inside)
        tile += 1

    row = partials + tl.program_id(0).to(tl.int64) * (DM + 3 * DM * E + 2 * N * E)
    by_d = e[:, None] * DM + d[None, :]
    tl.store(row + k[None, :] * E + e[:, None], sum_x, mask=tl.broadcast_to((k < 2 * N)[None, :], (E, K)))
    row += 2 * N * E
    tl.store(row + d, tl.sum(sum_norm, axis=0))
    row += DM
    tl.store(row + by_d, sum_a * gain)
    tl.store(row + E * DM + by_d, sum_z * gain)
    tl.store(row + 2 * E * DM + d[None, :] * E + e[:, None], sum_out)


@triton.jit
def _tile_steps(step, M: tl.constexpr):
    """The steps of a tile that begins at `step`, as `_places` lays them out."""
    return step + tl.arange(0, M // 8)[None, :, None, None] * 8 + tl.arange(0, 8)[:, None, None, None]


@triton.jit
def _places(token, stride, missing, M: tl.constexpr, C: tl.constexpr, LIMIT: tl.constexpr):
    """Where the numbers of a tile `[8, M / 8, C / 8, 8]` are, and which exist: `LIMIT` of `C` in a row, and
    not the `missing` first rows."""
    steps = _tile_steps(0, M)
    t = token + steps
    c = tl.arange(0, C // 8)[None, None, :, None] * 8 + tl.arange(0, 8)[None, None, None, :]
    real = steps >= missing
    if LIMIT < C:
        real = real & (c < LIMIT)
    return tl.multiple_of(t * stride + c, [1, 1, 1, 2]), real


@triton.jit
def _tile(ptr, token, stride, missing, M: tl.constexpr, C: tl.constexpr, LIMIT: tl.constexpr):
    """`[M, C]` numbers as tensor cores leave them."""
    where, real = _places(token, stride, missing, M, C, LIMIT)
    found = tl.load(ptr + where, mask=real, other=0.0)
    return tl.reshape(tl.permute(found, (1, 0, 2, 3)), (M, C))


@triton.jit
def _columns(ptr, token, stride, missing, M: tl.constexpr, C: tl.constexpr, LIMIT: tl.constexpr):
    """`[C, M]` numbers as tensor cores take them, tokens in the order of `_paired`."""
    steps = tl.arange(0, M // 8)[None, None, :, None, None] * 8
    steps += tl.arange(0, 4)[:, None, None, None, None] * 2 + tl.arange(0, 2)[None, None, None, :, None]
    t = token + steps
    c = tl.arange(0, C // 8)[None, None, None, None, :] * 8 + tl.arange(0, 8)[None, :, None, None, None]
    real = steps >= missing
    if LIMIT < C:
        real = real & (c < LIMIT)
    found = tl.load(ptr + tl.multiple_of(t * stride + c, [1, 1, 1, 1, 1]), mask=real, other=0.0)
    return tl.reshape(tl.permute(found, (4, 1, 2, 3, 0)), (C, M))


@triton.jit
def _paired(tile, ROWS: tl.constexpr, C: tl.constexpr):
    """`[ROWS, C]` with columns reordered: of each 8 first the even ones, then the odd ones."""
    return tl.reshape(tl.permute(tl.reshape(tile, (ROWS, C // 8, 4, 2)), (0, 1, 3, 2)), (ROWS, C))


@triton.jit
def _add_parts(total, high, low, other_high, other_low):
    """total + (high + low) (other_high + other_low), but for the product of what is low."""
    total = tl.dot(low, other_high, total, input_precision="tf32")
    total = tl.dot(high, other_low, total, input_precision="tf32")
    return tl.dot(high, other_high, total, input_precision="tf32")


@triton.jit
def _add_product(total, high, low, factor, K: tl.constexpr, C: tl.constexpr):
    """total + (high + low) times the `[K, C]` that `_pack_factor` has written."""
    lane = tl.arange(0, 4)[:, None, None, None] * 4 + tl.arange(0, 8)[None, :, None, None] * 16
    quad = tl.arange(0, K * C // 128)[None, None, :, None] * 128
    where = quad + lane + tl.arange(0, 4)[None, None, None, :]
    shape: tl.constexpr = (4, 8, C // 8, K // 8, 2)
    other_high = tl.permute(tl.reshape(tl.load(factor + where), shape), (3, 4, 0, 2, 1))
    other_low = tl.permute(tl.reshape(tl.load(factor + K * C + where), shape), (3, 4, 0, 2, 1))
    return _add_parts(total, high, low, tl.reshape(other_high, (K, C)), tl.reshape(other_low, (K, C)))


@triton.jit
def _pack_factor(values, factor, K: tl.constexpr, C: tl.constexpr):
    """Write both parts of a `[K, C]` so that a thread finds 4 numbers of what it multiplies side by side."""
    k, c = tl.arange(0, K)[:, None], tl.arange(0, C)[None, :]
    register = (c // 8 * (K // 8) + k // 8) * 2 + k % 8 // 4
    where = factor + (register // 4 * 32 + c % 8 * 4 + k % 4) * 4 + register % 4
    high, low = _parts(values)
    tl.store(where, high)
    tl.store(where + K * C, low)


@triton.jit
def _pair_order(C: tl.constexpr):
    """Which column `_paired` puts where: `[C, 1]`."""
    c = tl.arange(0, C)[:, None]
    return c // 8 * 8 + c % 4 * 2 + c % 8 // 4


@triton.jit
def _pack_factors(
    factors, in_proj, x_proj, out_proj, DM: tl.constexpr, E: tl.constexpr, N: tl.constexpr, R: tl.constexpr
):
    """Write W_out transposed; by `_pack_factor` W_out, both halves of W_in and the part of W_x for B and C.

    The rows of these are in the order of `_paired`.
    """
    K: tl.constexpr = 2 * N if N >= 8 else 16
    d, e = tl.arange(0, DM)[None, :], tl.arange(0, E)[None, :]
    tl.store(factors + tl.trans(e) * DM + d, tl.load(out_proj + d * E + tl.trans(e)))
    _pack_factor(tl.load(out_proj + _pair_order(DM) * E + e), factors + DM * E, DM, E)
    _pack_factor(tl.load(in_proj + _pair_order(E) * DM + d), factors + 3 * DM * E, E, DM)
    _pack_factor(tl.load(in_proj + (E + _pair_order(E)) * DM + d), factors + 5 * DM * E, E, DM)
    w_x = tl.load(x_proj + (R + _pair_order(K)) * E + e, mask=_pair_order(K) < 2 * N, other=0.0)
    _pack_factor(w_x, factors + 7 * DM * E, K, E)
