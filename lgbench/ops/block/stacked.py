"""All blocks of several Mamba models of one shape at once: one set of launches, each model as it is alone.

The weights of a model are one row of numbers, and so are their gradients: block after block, each in the
order of `GRADIENTS` of the kernels. A model's results and gradients are bit for bit the same with whatever
models beside it, and however far its sequences are padded on the left.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lgbench.ops.block.mamba_block import plain_block, supports

ORDER = ("norm_weight", "in_proj", "x_proj", "dt_weight", "dt_bias", "A_log", "D", "out_proj")
"""As `mamba_block` takes them."""
ALIGNED = 16
"""Numbers of which the distance between two models' rows is a multiple: kernels read several at once."""
IN_A_ROW = ("dt_weight", "dt_bias", "A_log", "D", "x_proj", "norm_weight", "in_proj", "out_proj")
"""As they follow each other in a row of numbers."""


class Sizes(NamedTuple):
    """Of all blocks."""

    num_layers: int
    d_model: int
    d_inner: int
    d_state: int
    dt_rank: int

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the weights of a block, in the order of a row."""
        shapes = {
            "norm_weight": (self.d_model,),
            "in_proj": (2 * self.d_inner, self.d_model),
            "x_proj": (self.dt_rank + 2 * self.d_state, self.d_inner),
            "dt_weight": (self.d_inner, self.dt_rank),
            "dt_bias": (self.d_inner,),
            "A_log": (self.d_inner, self.d_state),
            "D": (self.d_inner,),
            "out_proj": (self.d_model, self.d_inner),
        }
        return {name: shapes[name] for name in IN_A_ROW}

    def numbers(self) -> int:
        """In the weights of a block."""
        return sum(torch.Size(shape).numel() for shape in self.shapes().values())


def chunk_of(batch: int, longest: int, sizes: Sizes) -> int:
    """Tokens of which the length of a model's sequences must be a multiple, for sequences of up to
    `longest`.
    """
    try:
        from lgbench.ops.block.triton_block import plan
    except ImportError:
        return 16
    return plan(batch, longest, sizes.d_inner * sizes.d_state).chunk


def stacked_blocks(
    tokens: Tensor, weights: Tensor, starts: Tensor, sizes: Sizes, eps: float, longest: int
) -> Tensor:
    """Run all blocks of all models.

    Args:
        tokens: residual streams `(models · batch, length, d_model)` float32, model after model.
        weights: `(models, num_layers · numbers)` float32, contiguous in a row; rows are a multiple of
            `ALIGNED` numbers apart.
        starts: int32 `(2, models)`: the first real step of a model's sequences, and the same rounded down to
            a multiple of `chunk_of`. Steps before the former are not there, what comes out of them has no
            meaning.
        sizes: of all models.
        eps: of the norms.
        longest: length of the longest sequences that these models are trained on; `length` is at most that,
            rounded up to a multiple of `chunk_of`, and such a multiple.

    Returns:
        new residual streams `(models · batch, length, d_model)`.

    Raises:
        ValueError: a length or a distance between rows that is no such multiple.
    """
    _, d_model, d_inner, d_state, dt_rank = sizes
    if supports(d_model, d_inner, d_state, dt_rank, tokens.dtype, tokens.device):
        return _Blocks.apply(tokens, weights, starts, sizes, eps, longest)
    models = len(weights)
    streams = []
    for stream, row, start in zip(tokens.chunk(models), weights.unbind(), starts[0].unbind(), strict=True):
        mask = torch.arange(tokens.shape[1], device=tokens.device) >= start
        for block in row.split(sizes.numbers()):
            stream = plain_block(stream, tuple(_named(block, sizes).values()), eps, None, mask)[0]
        streams.append(stream)
    return torch.cat(streams)


def _named(row: Tensor, sizes: Sizes) -> dict[str, Tensor]:
    """The weights of a block, `(…, numbers)`, by name in the order of `mamba_block`; views."""
    shapes = sizes.shapes()
    parts = row.split([torch.Size(shape).numel() for shape in shapes.values()], dim=-1)
    named = {n: p.unflatten(-1, shape) for (n, shape), p in zip(shapes.items(), parts, strict=True)}
    return {name: named[name] for name in ORDER}


class _Blocks(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tokens, weights, starts, sizes, eps, longest):
        from lgbench.ops.block import triton_block as kernels

        if weights.stride(0) % ALIGNED:
            raise ValueError(
                f"stacked weights must be a multiple of {ALIGNED} apart, got {weights.stride(0)}"
            )
        stack = kernels.Stack(weights.stride(0), starts, longest)
        keep, saved, tokens = any(ctx.needs_input_grad), [], tokens.contiguous()
        for block in weights.split(sizes.numbers(), dim=1):
            named = kernels.Weights(**_named(block, sizes))
            out, _, tape = kernels.forward(tokens, named, eps, None, None, keep, stack)
            saved += [tokens, *tape]
            tokens = out
        if keep:
            ctx.save_for_backward(weights, starts, *saved)
            ctx.rest = sizes, eps, longest
        return tokens

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        from lgbench.ops.block import triton_block as kernels

        weights, starts, *saved = ctx.saved_tensors
        sizes, eps, longest = ctx.rest
        stack = kernels.Stack(weights.stride(0), starts, longest)
        total = weights.new_empty(weights.shape)
        grad = grad.contiguous()
        nothing = grad.new_zeros(len(grad), sizes.d_inner, sizes.d_state)
        numbers, each = sizes.numbers(), 1 + len(kernels.Tape._fields)
        for layer in reversed(range(sizes.num_layers)):
            tokens, *tape = saved[layer * each : (layer + 1) * each]
            own = slice(layer * numbers, (layer + 1) * numbers)
            named = kernels.Weights(**_named(weights[:, own], sizes))
            grad, _ = kernels.backward(
                tokens, named, eps, kernels.Tape(*tape), grad, nothing, total[:, own], stack
            )
        return grad, total, None, None, None, None
