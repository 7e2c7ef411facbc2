"""Triton kernels of RMSNorm: a tile of whole rows in registers, forward and backward.

    y = w ∘ x r,   r = 1 / sqrt(mean(x²) + ε)
    dx = r (w ∘ dy - x r mean(w ∘ dy ∘ x r))        dw = Σ_rows dy ∘ x r

A program of the backward takes every PROGRAMS-th tile and leaves its part of dw, and these are summed in a
fixed order. Offsets are 64 bit.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from lgbench.ops.launch import launch

TILE = 4096
"""Numbers in the tile of a program of four warps."""
PROGRAMS = 528
"""Of the backward, four for each of 132 multiprocessors; a constant, so that sums are the same anywhere."""


class RmsNorm(torch.autograd.Function):
    """The norm of the last dimension in a type of choice; sums are float32."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        """y in `dtype`, of the shape of x."""
        x, weight = x.contiguous(), weight.contiguous()
        width = x.shape[-1]
        rows, padded = x.numel() // width, triton.next_power_of_2(width)
        tile = max(1, TILE // padded)
        y = torch.empty(x.shape, dtype=dtype, device=x.device)
        programs = triton.cdiv(rows, tile)
        launch(_forward_kernel, programs, (x, weight, y), (rows, eps), (width, padded, tile), num_warps=4)
        ctx.save_for_backward(x, weight)
        ctx.eps = eps
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x and weight, each in its own type."""
        x, weight = ctx.saved_tensors
        dy, width = dy.contiguous(), x.shape[-1]
        rows, padded = x.numel() // width, triton.next_power_of_2(width)
        tile = max(1, TILE // padded)
        programs = min(PROGRAMS, triton.cdiv(rows, tile))
        dx = torch.empty_like(x)
        parts = torch.empty(programs, width, dtype=torch.float32, device=x.device)
        tensors = (x, weight, dy, dx, parts)
        launch(_backward_kernel, programs, tensors, (rows, ctx.eps), (width, padded, tile), num_warps=4)
        return dx, parts.sum(0).to(weight.dtype), None, None


@triton.jit(do_not_specialize=["rows", "eps"])
def _forward_kernel(x, weight, y, rows, eps, width: tl.constexpr, PADDED: tl.constexpr, TILE: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)[:, None]
    column = tl.arange(0, PADDED)[None, :]
    inside = (row < rows) & (column < width)
    xs = tl.load(x + row * width + column, mask=inside, other=0.0).to(tl.float32)
    w = tl.load(weight + column, mask=column < width, other=0.0).to(tl.float32)
    r = 1.0 / tl.sqrt(tl.sum(xs * xs, 1) / width + eps)
    out = xs * r[:, None] * w
    tl.store(y + row * width + column, out.to(y.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["rows", "eps"])
def _backward_kernel(
    x, weight, dy, dx, parts, rows, eps, width: tl.constexpr, PADDED: tl.constexpr, TILE: tl.constexpr
):
    column = tl.arange(0, PADDED)[None, :]
    w = tl.load(weight + column, mask=column < width, other=0.0).to(tl.float32)
    dw = tl.zeros([TILE, PADDED], tl.float32)
    row = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)[:, None]
    first = tl.program_id(0) * TILE
    while first < rows:
        inside = (row < rows) & (column < width)
        xs = tl.load(x + row * width + column, mask=inside, other=0.0).to(tl.float32)
        g = tl.load(dy + row * width + column, mask=inside, other=0.0).to(tl.float32)
        r = 1.0 / tl.sqrt(tl.sum(xs * xs, 1) / width + eps)
        normal = xs * r[:, None]
        dw += g * normal
        g *= w
        out = r[:, None] * (g - normal * (tl.sum(g * normal, 1) / width)[:, None])
        tl.store(dx + row * width + column, out.to(dx.dtype.element_ty), mask=inside)
        row += tl.num_programs(0) * TILE
        first += tl.num_programs(0) * TILE
    total = tl.sum(dw, 0)
    at = tl.arange(0, PADDED)
    tl.store(parts + tl.program_id(0) * width + at, total, mask=at < width)
