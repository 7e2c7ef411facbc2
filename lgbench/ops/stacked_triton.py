"""Triton kernels of `lgbench.ops.stacked`: narrow layers of several models, sums in an order of their own.

A row of `partials` is of `ROWS` rows of one sequence, counted from its end: of a model first the last rows
of all its sequences, then those before them. `add_rows` of the fused block adds them up. Widths are at most
128.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from lgbench.ops.block.backward import add_rows
from lgbench.ops.launch import launch

ROWS = 32
"""Rows that a program takes at a time."""
BLOCK = 1024
"""Numbers that `_total` adds at a time."""


class Linear(torch.autograd.Function):
    """See `lgbench.ops.stacked.linear`."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, starts: Tensor | None) -> Tensor:
        """x Wᵀ + b."""
        x, weight = x.contiguous(), _rows_contiguous(weight)
        ctx.save_for_backward(x, weight, starts)
        return _product(x, weight, bias, False)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, where it is asked for, of weight and bias."""
        x, weight, starts = ctx.saved_tensors
        grad = grad.contiguous()
        models, outputs, inputs = weight.shape
        grad_x = _product(grad, weight, None, True) if ctx.needs_input_grad[0] else None
        sums = _sums(grad, x, models, starts, outputs * (inputs + 1), "outer")
        by_weight, by_bias = sums.split([outputs * inputs, outputs], dim=1)
        return grad_x, by_weight.unflatten(1, (outputs, inputs)), by_bias, None


class Repeat(torch.autograd.Function):
    """See `lgbench.ops.stacked.repeat`."""

    @staticmethod
    def forward(ctx, vector: Tensor, batch: int, length: int) -> Tensor:
        """The vector of each model in all its rows."""
        ctx.models = len(vector)
        rows = vector[:, None, None].expand(-1, batch // len(vector), length, -1)
        return rows.reshape(batch, length, -1)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Sum over the rows."""
        return _sums(grad.contiguous(), None, ctx.models, None, grad.shape[-1], "plain"), None, None


class RmsNorm(torch.autograd.Function):
    """See `lgbench.ops.stacked.rms_norm`."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """Unit rows times the model's gains."""
        x = x.contiguous()
        unit, out = torch.empty_like(x), torch.empty_like(x)
        _over_rows(_norm, (x, weight, unit, out), weight, x, eps)
        ctx.save_for_backward(x, weight, unit)
        ctx.eps = eps
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x and of the gains."""
        x, weight, unit = ctx.saved_tensors
        grad, grad_x = grad.contiguous(), torch.empty_like(x)
        _over_rows(_norm_gradient, (x, weight, grad, grad_x), weight, x, ctx.eps)
        return grad_x, _sums(grad, unit, len(weight), None, x.shape[-1], "each"), None


class Total(torch.autograd.Function):
    """See `lgbench.ops.stacked.total`."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        """Sum of each row, in one order."""
        x = x.contiguous()
        ctx.shape = x.shape
        sums = x.new_empty(len(x))
        launch(_total, len(x), (x, sums), (x.shape[1],), (BLOCK,), 8)
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> Tensor:
        """The same gradient for all of a row."""
        return grad[:, None].expand(ctx.shape)


def _rows_contiguous(weight: Tensor) -> Tensor:
    """A weight `(models, outputs, inputs)` whose models may lie anywhere, but each in one piece."""
    return weight if weight[0].is_contiguous() else weight.contiguous()


def _product(x: Tensor, weight: Tensor, bias: Tensor | None, turned: bool) -> Tensor:
    models, outputs, inputs = weight.shape
    if turned:
        outputs, inputs = inputs, outputs
    rows = x.numel() // inputs // models
    out = x.new_empty(*x.shape[:-1], outputs)
    programs = triton.cdiv(rows, ROWS)
    launch(
        _linear, models * programs, (x, weight, weight if bias is None else bias, out),
        (rows, programs, weight.stride(0), 0 if bias is None else bias.stride(0)),
        (
            inputs, outputs, triton.next_power_of_2(inputs), triton.next_power_of_2(outputs), ROWS, turned,
            bias is not None,
        ), 4,
    )  # fmt: skip
    return out


def _over_rows(kernel, tensors: tuple[Tensor, ...], weight: Tensor, x: Tensor, eps: float) -> None:
    width = x.shape[-1]
    rows = x.numel() // width // len(weight)
    programs = triton.cdiv(rows, ROWS)
    numbers = (rows, programs, weight.stride(0), eps)
    launch(kernel, len(weight) * programs, tensors, numbers, (width, triton.next_power_of_2(width), ROWS), 4)


def _sums(a: Tensor, b: Tensor | None, models: int, starts: Tensor | None, columns: int, kind: str) -> Tensor:
    """Per model, over all rows: Σ a ⊗ b and Σ a ("outer"), Σ a ("plain") or Σ a ∘ b ("each")."""
    batch, length = a.shape[0] // models, a.shape[1]
    pieces = triton.cdiv(length, ROWS) * batch
    partials, sums = a.new_empty(models * pieces, columns), a.new_empty(models, columns)
    inputs = b.shape[-1] if kind == "outer" else 1
    outputs, some = a.shape[-1], a if starts is None else starts
    launch(
        _partial_sums, models * pieces, (a, a if b is None else b, partials, some),
        (length, batch, models, columns),
        (
            outputs, inputs, triton.next_power_of_2(outputs), triton.next_power_of_2(inputs), ROWS,
            kind == "outer", kind == "each", starts is not None,
        ), 4,
    )  # fmt: skip
    launch(
        add_rows, models * triton.cdiv(columns, 8), (partials, sums, some),
        (pieces, columns, columns, length, batch, models, ROWS, 1), (512, 8, starts is not None), 8,
    )  # fmt: skip
    return sums


@triton.jit(do_not_specialize=["rows", "programs", "stride", "bias_stride"])
def _linear(
    x, weight, bias, out, rows, programs, stride, bias_stride,
    INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, BY_IN: tl.constexpr, BY_OUT: tl.constexpr, M: tl.constexpr,
    TURNED: tl.constexpr, HAS_BIAS: tl.constexpr,
):  # fmt: skip
    """Multiply `M` rows of a model by its weights, which lie `[INPUTS, OUTPUTS]` if turned."""
    model = (tl.program_id(0) // programs).to(tl.int64)
    row = (tl.program_id(0) % programs).to(tl.int64) * M + tl.arange(0, M)
    i, o = tl.arange(0, BY_IN), tl.arange(0, BY_OUT)
    at = i[:, None] * OUTPUTS + o[None, :] if TURNED else o[None, :] * INPUTS + i[:, None]
    real = (i < INPUTS)[:, None] & (o < OUTPUTS)[None, :]
    w = tl.load(weight + model * stride + at, mask=real, other=0.0)
    inside = (row < rows)[:, None]
    where = (model * rows + row)[:, None]
    xs = tl.load(x + where * INPUTS + i[None, :], mask=inside & (i < INPUTS)[None, :], other=0.0)
    y = tl.sum(xs[:, :, None] * w[None, :, :], axis=1)
    if HAS_BIAS:
        y += tl.load(bias + model * bias_stride + o, mask=o < OUTPUTS, other=0.0)[None, :]
    tl.store(out + where * OUTPUTS + o[None, :], y, mask=inside & (o < OUTPUTS)[None, :])


@triton.jit(do_not_specialize=["length", "batch", "num_models", "columns"])
def _partial_sums(
    a, b, partials, starts, length, batch, num_models, columns,
    OUTPUTS: tl.constexpr, INPUTS: tl.constexpr, BY_OUT: tl.constexpr, BY_IN: tl.constexpr, M: tl.constexpr,
    OUTER: tl.constexpr, EACH: tl.constexpr, HAS_STARTS: tl.constexpr,
):  # fmt: skip
    """Write the sums over `M` rows of a sequence, counted from its end, as a row of `partials`."""
    pieces = tl.cdiv(length, M) * batch
    model = (tl.program_id(0) // pieces).to(tl.int64)
    piece = tl.program_id(0) % pieces
    first = 0
    if HAS_STARTS:
        first = tl.load(starts + num_models + model)
        if length - piece // batch * M <= first:
            return
    step = length - (piece // batch + 1) * M + tl.arange(0, M)
    row = ((model * batch + piece % batch) * length + step)[:, None]
    inside = (step >= first)[:, None]
    i, o = tl.arange(0, BY_IN), tl.arange(0, BY_OUT)
    here = inside & (o < OUTPUTS)[None, :]
    value = tl.load(a + row * OUTPUTS + o[None, :], mask=here, other=0.0)
    out = partials + tl.program_id(0).to(tl.int64) * columns
    if EACH:
        value *= tl.load(b + row * OUTPUTS + o[None, :], mask=here, other=0.0)
    if OUTER:
        other = tl.load(b + row * INPUTS + i[None, :], mask=inside & (i < INPUTS)[None, :], other=0.0)
        product = tl.sum(value[:, :, None] * other[:, None, :], axis=0)
        real = (o < OUTPUTS)[:, None] & (i < INPUTS)[None, :]
        tl.store(out + o[:, None] * INPUTS + i[None, :], product, mask=real)
        out += OUTPUTS * INPUTS
    tl.store(out + o, tl.sum(value, axis=0), mask=o < OUTPUTS)


@triton.jit(do_not_specialize=["rows", "programs", "stride", "eps"])
def _norm(
    x, weight, unit, out, rows, programs, stride, eps, WIDTH: tl.constexpr, C: tl.constexpr, M: tl.constexpr
):
    """Divide `M` rows of a model by their root mean square, and multiply them by its gains."""
    model = (tl.program_id(0) // programs).to(tl.int64)
    row = (tl.program_id(0) % programs).to(tl.int64) * M + tl.arange(0, M)
    c = tl.arange(0, C)[None, :]
    inside = (row < rows)[:, None] & (c < WIDTH)
    at = (model * rows + row)[:, None] * WIDTH + c
    value = tl.load(x + at, mask=inside, other=0.0)
    value *= tl.rsqrt(tl.sum(value * value, axis=1) / WIDTH + eps)[:, None]
    tl.store(unit + at, value, mask=inside)
    tl.store(out + at, value * tl.load(weight + model * stride + c, mask=c < WIDTH, other=0.0), mask=inside)


@triton.jit(do_not_specialize=["rows", "programs", "stride", "eps"])
def _norm_gradient(
    x,
    weight,
    grad,
    grad_x,
    rows,
    programs,
    stride,
    eps,
    WIDTH: tl.constexpr,
    C: tl.constexpr,
    M: tl.constexpr,
):
    """r (w ∘ dy - x r mean(w ∘ dy ∘ x r)), where r is 1 over the root mean square."""
    model = (tl.program_id(0) // programs).to(tl.int64)
    row = (tl.program_id(0) % programs).to(tl.int64) * M + tl.arange(0, M)
    c = tl.arange(0, C)[None, :]
    inside = (row < rows)[:, None] & (c < WIDTH)
    at = (model * rows + row)[:, None] * WIDTH + c
    value = tl.load(x + at, mask=inside, other=0.0)
    scale = tl.rsqrt(tl.sum(value * value, axis=1) / WIDTH + eps)[:, None]
    value *= scale
    pull = tl.load(grad + at, mask=inside, other=0.0)
    pull *= tl.load(weight + model * stride + c, mask=c < WIDTH, other=0.0)
    mean = tl.sum(pull * value, axis=1)[:, None] / WIDTH
    tl.store(grad_x + at, scale * (pull - value * mean), mask=inside)


@triton.jit(do_not_specialize=["count"])
def _total(x, sums, count, BLOCK: tl.constexpr):
    """Add all numbers of a model."""
    row = x + tl.program_id(0).to(tl.int64) * count
    found = tl.zeros((BLOCK,), tl.float32)
    begin = 0
    while begin < count:
        at = begin + tl.arange(0, BLOCK)
        found += tl.load(row + at, mask=at < count, other=0.0)
        begin += BLOCK
    tl.store(sums + tl.program_id(0), tl.sum(found, axis=0))
