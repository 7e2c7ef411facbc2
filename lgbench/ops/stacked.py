"""Small layers of several models at once: weights with a leading axis, each model as it is alone.

Rows `(models · batch, length, width)` belong to the models in order, `batch` sequences each. A weight
without the leading axis is one model's, and goes the plain way of PyTorch. On a GPU every sum over rows is
ours: PyTorch's order of a sum may depend on how many models there are. Sums run from the end of the
sequences, so that they do not depend on padding on the left either.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor
from torch.nn import functional as F

from lgbench.ops.rms_norm import rms_norm as plain_rms_norm


def linear(x: Tensor, weight: Tensor, bias: Tensor, starts: Tensor | None = None) -> Tensor:
    """x Wᵀ + b.

    Args:
        x: `(models · batch, length, inputs)`.
        weight: `(models, outputs, inputs)`, or `(outputs, inputs)` of one model.
        bias: `(models, outputs)`, or `(outputs,)`.
        starts: int32 `(2, models)`; gradients of rows before `starts[1]` of a model do not count. None is
            from 0.
    """
    if weight.dim() == 2:
        return F.linear(x, weight, bias)
    if _by_kernels(x):
        from lgbench.ops.stacked_triton import Linear

        return Linear.apply(x, weight, bias, starts)
    return torch.cat([F.linear(*one) for one in zip(x.chunk(len(weight)), weight, bias, strict=True)])


def repeat(vector: Tensor, batch: int, length: int) -> Tensor:
    """A vector in every row, `(batch, length, width)`.

    Args:
        vector: `(models, width)`, or `(width,)` of one model.
        batch: sequences of all models.
        length: rows of a sequence.
    """
    if vector.dim() == 1:
        return vector.expand(batch, length, -1)
    if _by_kernels(vector):
        from lgbench.ops.stacked_triton import Repeat

        return Repeat.apply(vector, batch, length)
    return torch.cat([one.expand(batch // len(vector), length, -1) for one in vector])


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMS norm of the last dimension.

    Args:
        x: `(models · batch, length, width)`.
        weight: `(models, width)`.
        eps: added to the mean square.
    """
    if _by_kernels(x):
        from lgbench.ops.stacked_triton import RmsNorm

        return RmsNorm.apply(x, weight, eps)
    return torch.cat(
        [plain_rms_norm(one, gain, eps) for one, gain in zip(x.chunk(len(weight)), weight, strict=True)]
    )


def total(x: Tensor) -> Tensor:
    """Sum of each model's numbers, `(models, numbers)` → `(models,)`."""
    if _by_kernels(x):
        from lgbench.ops.stacked_triton import Total

        return Total.apply(x)
    return torch.stack([row.sum() for row in x])


def _by_kernels(x: Tensor) -> bool:
    return x.device.type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1"
