"""What the Triton kernels of the scan whose lanes share channels are made of: rows, states, sums over lanes.

The backward's warp works on 32 channels, lane l on the rows (x, Δ, z, y and their gradients) of channel l.
States are cut up otherwise: P = N / 4 neighbouring lanes share P channels, and each has the same 4 states of
all of them. So a lane reads 4 numbers of B and of C for 4 P states, and a sum over channels begins inside
the lane; a lane with all states of one channel has to be handed 4 P numbers of each, by as many shuffles,
which wait in one queue with the special functions. Slot s of a lane is the channel of lane l ^ s: in this
order a number goes to all lanes of a channel, and a sum over its states comes back, without choosing between
registers.

Names: E channels, N states, XS, DS, BS, ... row strides of x, Δ, B, ...; a position is a row of an array
`(B·L, ...)`, always 64 bit. A tile is TILE steps, a tuple of vectors over lanes; states are tuples of P
tensors `(4, 32)`. TAIL says that a tile may reach past the end of its sequence: steps there have Δ = 0 and
leave the state alone. The alignment of rows over channels is kept from Triton, as in `scan_triton_forward`.
"""

import triton
import triton.language as tl

from lgbench.ops.scan.forward import LOG2E, softplus


@triton.jit
def own_states(lane, P: tl.constexpr):
    """The numbers n of the 4 states that a lane holds of each of its channels, `(4, 32)`."""
    return (lane % P * 4)[None, :] + tl.broadcast_to(tl.arange(0, 4)[:, None], [4, 32])


@triton.jit
def slots(value, lane, P: tl.constexpr):
    """From a number a channel in its own lane: those of the P channels that a lane has states of."""
    values = (value,)
    for s in tl.static_range(1, P):
        values = values + (tl.gather(value, lane ^ s, 0),)  # noqa: RUF005
    return values


@triton.jit
def joined(parts, lane, P: tl.constexpr):
    """From a part for each of its channels in every lane: the sum of the parts, in the channel's own lane."""
    value = parts[0]
    for s in tl.static_range(1, P):
        value += tl.gather(parts[s], lane ^ s, 0)
    return value


@triton.jit
def rates(A, e, lane, n, E: tl.constexpr, N: tl.constexpr, P: tl.constexpr):
    """A · log2(e) of a lane's states."""
    values = ()
    for s in tl.static_range(P):
        es = (e - lane + (lane ^ s))[None, :]
        value = tl.load(A + es * N + n, mask=(es < E) & (n < N), other=0.0)
        values = values + (value.to(tl.float32) * LOG2E,)  # noqa: RUF005
    return values


@triton.jit
def load_rows(
    pointer, first, t, length, e,
    E: tl.constexpr, STRIDE: tl.constexpr, TILE: tl.constexpr, TAIL: tl.constexpr,
):  # fmt: skip
    """Rows t to t + TILE - 1 of the sequence that begins at position `first`, in their own type."""
    values = ()
    at = pointer + (first + t) * STRIDE + e
    for k in tl.static_range(TILE):
        if TAIL:
            row = tl.load(at + k * STRIDE, mask=(t + k < length) & (e < E), other=0.0)
        elif E % 32 != 0:
            row = tl.load(at + k * STRIDE, mask=e < E, other=0.0)
        else:
            row = tl.load(at + k * STRIDE)
        values = values + (row,)  # noqa: RUF005
    return values


@triton.jit
def load_states(
    pointer, t, length, n,
    N: tl.constexpr, P: tl.constexpr, STRIDE: tl.constexpr, TILE: tl.constexpr, TAIL: tl.constexpr,
):  # fmt: skip
    """A lane's 4 numbers of each of TILE rows of B or C, of the sequence whose first are at `pointer`."""
    values = ()
    at = pointer + t.to(tl.int64) * STRIDE
    for k in tl.static_range(TILE):
        if TAIL:
            row = tl.load(at + k * STRIDE, mask=(t + k < length) & (n < N), other=0.0)
        elif N != 4 * P:
            row = tl.load(at + k * STRIDE, mask=n < N, other=0.0)
        else:
            row = tl.load(at + k * STRIDE)
        values = values + (row,)  # noqa: RUF005
    return values


@triton.jit
def time_step(raw, bias, mask, mask_at, t, length, SOFTPLUS: tl.constexpr, TAIL: tl.constexpr):
    """Raw Δ with bias, and the Δ of the recurrence: after softplus, zero at masked steps and past the end."""
    v = raw.to(tl.float32) + bias
    dt = softplus(v) if SOFTPLUS else v
    if TAIL:
        dt = tl.where(t < length, dt, 0.0)
    if mask is not None:
        dt = tl.where(tl.load(mask + mask_at + t, mask=t < length, other=0) != 0, dt, 0.0)
    return v, dt


@triton.jit
def sigmoid(v):
    """1 / (1 + exp(-v)), as the square of a root: a division takes more instructions."""
    root = tl.rsqrt(1.0 + tl.exp2(v * -LOG2E))
    return root * root


@triton.jit
def pick(states, index, j: tl.constexpr):
    """Row j of `states`; free where a lane holds whole columns, as the compiler sees through it."""
    bits = tl.where(index == j, states.to(tl.int32, bitcast=True), 0)
    return tl.sum(bits, 0).to(tl.float32, bitcast=True)
