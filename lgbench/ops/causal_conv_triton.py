"""Triton kernels of the causal convolution: a warp walks through time with its last inputs in registers.

    p_t = b + Σ_k w_k x_{t-K+1+k}        y_t = p_t σ(p_t)        q_t = dy_t σ(p_t) (1 + p_t (1 - σ(p_t)))
    dx_t = Σ_k w_k q_{t+K-1-k}           dw_k = Σ_t q_t x_{t-K+1+k}        db = Σ_t q_t

Sizes: B batch, L length, E channels, K taps. A program is one warp with BLOCK channels and CHUNK steps, GROUP
at a time: the loads of a group do not wait for each other, and nothing is read twice but K - 1 steps a chunk.
The backward recomputes p. Every chunk leaves its part of dw and db, and these are summed in a fixed order.
A row is a position of a `(B·L, ...)` array, always 64 bit.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from lgbench.ops.causal_conv import plain
from lgbench.ops.launch import launch

BLOCK = 128
GROUP = 8
CHUNK = 64
LOG2E = tl.constexpr(1.4426950408889634)


class CausalConv(torch.autograd.Function):
    """SiLU of the convolution, with gradients; arguments as those of `causal_conv`, which checks them."""

    @staticmethod
    def forward(
        ctx,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        before: Tensor | None,
        order: Tensor | None,
        skipped: Tensor | None,
    ) -> Tensor:
        """y `(B, L, E)` in the type of x.

        Where tokens are masked, `order` `(B, L)` int32 has their places and then those of the others, and
        `skipped` `(B,)` int32 says how many are masked; `before` has no gradient then.
        """
        x = rows(x)
        weight, before = weight.contiguous(), None if before is None else before.contiguous()
        y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        tensors = (x, weight, bias, before, order, skipped, y)
        _launch(_forward_kernel, x, tensors, x.stride(1), weight.shape[1])
        ctx.save_for_backward(x, weight, bias, before, order, skipped)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the first four, each in its own type."""
        x, weight, bias, before, order, skipped = ctx.saved_tensors
        batch, length, channels = x.shape
        taps, dy = weight.shape[1], rows(dy)
        dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        parts = torch.empty(
            batch * triton.cdiv(length, CHUNK), taps + 1, channels, dtype=torch.float32, device=x.device
        )
        tensors = (x, weight, bias, before, order, skipped, dy, dx, parts)
        _launch(_backward_kernel, x, tensors, x.stride(1), dy.stride(1), taps)
        small = parts.sum(0)
        dbias = None if bias is None else small[taps].to(bias.dtype)
        dbefore = _before_gradient(x, weight, bias, before, dy) if ctx.needs_input_grad[3] else None
        return dx, small[:taps].t().to(weight.dtype), dbias, dbefore, None, None


def rows(t: Tensor) -> Tensor:
    """The same values with last stride 1 and one stride for `(batch, length)`, copied only where needed."""
    if t.stride(2) == 1 and (t.shape[0] == 1 or t.stride(0) == t.shape[1] * t.stride(1)):
        return t
    return t.contiguous()


def _before_gradient(x: Tensor, weight: Tensor, bias: Tensor | None, before: Tensor, dy: Tensor) -> Tensor:
    """The gradient of the carried inputs, which only the first K - 1 outputs see: in plain PyTorch."""
    with torch.enable_grad():
        before = before.detach().requires_grad_()
        y = plain(x[:, : before.shape[1]], weight, bias, before)
    return torch.autograd.grad(y, before, dy[:, : before.shape[1]])[0]


def _launch(kernel, x: Tensor, tensors: tuple[Tensor | None, ...], *constants: int) -> None:
    batch, length, channels = x.shape
    programs = batch * triton.cdiv(length, CHUNK) * triton.cdiv(channels, BLOCK)
    launch(kernel, programs, tensors, (length,), (channels, *constants, BLOCK, GROUP, CHUNK))


@triton.jit(do_not_specialize=["length"])
def _forward_kernel(
    x, weight, bias, before, order, skipped, y, length, channels: tl.constexpr, x_stride: tl.constexpr,
    K: tl.constexpr, BLOCK: tl.constexpr, GROUP: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    item, begin, e, ok = _place(length, channels, BLOCK, CHUNK)
    taps, b = _parameters(weight, bias, e, ok, K, BLOCK)
    first, begins = item * length, _skipped(skipped, item)
    xs = ()
    for j in tl.static_range(K - 1):
        t = begin - (K - 1) + j
        xs = xs + (  # noqa: RUF005
            _input(x, before, order, item, first, t, begins, length, x_stride, channels, e, ok, K, True),
        )
    t, end = begin, tl.minimum(begin + CHUNK, length)
    while t < end:
        for j in tl.static_range(GROUP):
            xs = xs + (  # noqa: RUF005
                _input(
                    x, before, order, item, first, t + j, begins, length, x_stride, channels, e, ok, K, False
                ),
            )  # fmt: skip
        for j in tl.static_range(GROUP):
            p = _taps(xs, taps, b, j, K)
            out = (p * _sigmoid(p)).to(y.dtype.element_ty)
            at = first + _source(order, first, t + j, length)
            tl.store(y + at * channels + e, out, mask=ok & (t + j < length))
        xs = _last(xs, GROUP, K)
        t += GROUP


@triton.jit(do_not_specialize=["length"])
def _backward_kernel(
    x, weight, bias, before, order, skipped, dy, dx, parts, length,
    channels: tl.constexpr, x_stride: tl.constexpr, dy_stride: tl.constexpr,
    K: tl.constexpr, BLOCK: tl.constexpr, GROUP: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """dx of a chunk, and its parts of dw and db: parts `(B, chunks, K + 1, E)`.

    dx at step t needs q up to t + K - 1, so a program goes K - 1 steps beyond its chunk; past the end q is 0.
    """
    item, begin, e, ok = _place(length, channels, BLOCK, CHUNK)
    taps, b = _parameters(weight, bias, e, ok, K, BLOCK)
    first, begins = item * length, _skipped(skipped, item)
    end = tl.minimum(begin + CHUNK, length)
    zero = tl.zeros([BLOCK], tl.float32)
    xs, qs, sums = (), (), (zero,)
    for j in tl.static_range(K - 1):
        t = begin - (K - 1) + j
        xs = xs + (  # noqa: RUF005
            _input(x, before, order, item, first, t, begins, length, x_stride, channels, e, ok, K, True),
        )
    for _ in tl.static_range(K):
        sums = sums + (zero,)  # noqa: RUF005
    for _ in tl.static_range(K - 1):
        qs = qs + (zero,)  # noqa: RUF005
    stop = tl.minimum(end + K - 1, length)
    t = begin
    while t < end + K - 1:
        gs = ()
        for j in tl.static_range(GROUP):
            xs = xs + (  # noqa: RUF005
                _input(
                    x, before, order, item, first, t + j, begins, stop, x_stride, channels, e, ok, K, False
                ),
            )  # fmt: skip
            row = dy + (first + _source(order, first, t + j, stop)) * dy_stride + e
            gs = gs + (tl.load(row, mask=ok & (t + j < stop), other=0.0),)  # noqa: RUF005
        for j in tl.static_range(GROUP):
            p = _taps(xs, taps, b, j, K)
            gate = _sigmoid(p)
            q = gs[j].to(tl.float32) * gate * (1.0 + p * (1.0 - gate))
            qs = qs + (q,)  # noqa: RUF005
            mine = tl.where(t + j < end, q, 0.0)
            added = ()
            for k in tl.static_range(K):
                added = added + (sums[k] + mine * xs[j + k].to(tl.float32),)  # noqa: RUF005
            sums = added + (sums[K] + mine,)  # noqa: RUF005
            at = t + j - (K - 1)
            d = zero
            for k in tl.static_range(K):
                d += taps[k] * qs[j + K - 1 - k]
            out = tl.where(at >= begins, d, 0.0).to(dx.dtype.element_ty)
            row = dx + (first + _source(order, first, at, length)) * channels + e
            tl.store(row, out, mask=ok & (at >= begin) & (at < end))
        xs, qs = _last(xs, GROUP, K), _last(qs, GROUP, K)
        t += GROUP
    chunk = item * tl.cdiv(length, CHUNK) + begin // CHUNK
    for k in tl.static_range(K + 1):
        tl.store(parts + (chunk * (K + 1) + k) * channels + e, sums[k], mask=ok)


@triton.jit
def _place(length, channels, BLOCK: tl.constexpr, CHUNK: tl.constexpr):
    """Sequence, first step and channels of this program, and which of those exist."""
    blocks, chunks = tl.cdiv(channels, BLOCK), tl.cdiv(length, CHUNK)
    program = tl.program_id(0)
    e = program % blocks * BLOCK + tl.arange(0, BLOCK)
    return (program // blocks // chunks).to(tl.int64), program // blocks % chunks * CHUNK, e, e < channels


@triton.jit
def _parameters(weight, bias, e, ok, K: tl.constexpr, BLOCK: tl.constexpr):
    """The K taps, oldest first, and the bias of each channel, float32."""
    taps = ()
    for k in tl.static_range(K):
        taps = taps + (tl.load(weight + e * K + k, mask=ok, other=0.0).to(tl.float32),)  # noqa: RUF005
    b = tl.zeros([BLOCK], tl.float32)
    if bias is not None:
        b = tl.load(bias + e, mask=ok, other=0.0).to(tl.float32)
    return taps, b


@triton.jit
def _skipped(skipped, item):
    """Masked tokens of a sequence, which come first in its order."""
    count = 0
    if skipped is not None:
        count = tl.load(skipped + item)
    return count


@triton.jit
def _source(order, first, t, length):
    """Where the token that comes t-th stands in its sequence."""
    place = t
    if order is not None:
        place = tl.load(order + first + t, mask=(t >= 0) & (t < length), other=0)
    return place


@triton.jit
def _input(
    x, before, order, item, first, t, begins, stop, stride, channels, e, ok,
    K: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Input t in its own type: of the sequence from `begins` on, else of `before` `(B, K - 1, E)`, else 0.

    Without an order only those that are EARLY can come before the sequence.
    """
    at = first + _source(order, first, t, stop)
    value = tl.load(x + at * stride + e, mask=ok & (t >= begins) & (t < stop), other=0.0)
    if before is not None and (EARLY or order is not None):
        past = t - begins + K - 1
        rows = before + (item * (K - 1) + past) * channels + e
        old = tl.load(rows, mask=ok & (t < begins) & (past >= 0), other=0.0)
        value = tl.where(t >= begins, value, old.to(value.dtype))
    return value


@triton.jit
def _taps(xs, taps, b, j: tl.constexpr, K: tl.constexpr):
    """p at step j of a group, from inputs that begin K - 1 steps before it."""
    p = b
    for k in tl.static_range(K):
        p += taps[k] * xs[j + k].to(tl.float32)
    return p


@triton.jit
def _last(values, GROUP: tl.constexpr, K: tl.constexpr):
    """The K - 1 values that the next group begins with."""
    kept = ()
    for j in tl.static_range(K - 1):
        kept = kept + (values[GROUP + j],)  # noqa: RUF005
    return kept


@triton.jit
def _sigmoid(p):
    return 1.0 / (1.0 + tl.exp2(p * -LOG2E))
