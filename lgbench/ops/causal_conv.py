"""Depthwise causal convolution with SiLU, as in Mamba's block: channel-last, in pieces with carried inputs.

    y_t = SiLU(b + Σ_k w_k x_{t-K+1+k})        k = 0 ... K - 1, per channel

Sizes: B batch, L length, E channels, K taps. Sums are float32 whatever the type of x, float64 if x is.
`torch.nn.Conv1d` wants time innermost and the sequence in a piece; this reads both parts where they are.
Source: Gu and Dao, arXiv:2312.00752, §3.4; the code is our own.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def causal_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, before: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Convolve a piece of a sequence.

    Autocast changes nothing here: results have the type of x, gradients that of their argument.

    Args:
        x: `(B, L, E)`, any float type, any length; a part of a projection's output is read in place.
        weight: `(E, K)`, oldest input first.
        bias: `(E,)`, or None.
        before: inputs of the piece before, `(B, K - 1, E)`; None is zeros, the start of a sequence.

    Returns:
        y `(B, L, E)` in the type of x, and the last K - 1 inputs `(B, K - 1, E)` for the next piece: a copy,
        which keeps nothing of x alive. Both carry gradients.

    Raises:
        ValueError: shapes do not fit.
    """
    _check(x, weight, bias, before)
    carried = _last(x, before, weight.shape[1] - 1)
    with torch.autocast(x.device.type, enabled=False):
        if x.device.type != "cuda" or x.dtype == torch.float64 or x.numel() == 0:
            return plain(x, weight, bias, before), carried
        from lgbench.ops.causal_conv_triton import CausalConv

        return CausalConv.apply(x, weight, bias, before), carried


def plain(x: Tensor, weight: Tensor, bias: Tensor | None, before: Tensor | None) -> Tensor:
    """The definition in plain PyTorch, one shifted product a tap: y of `causal_conv`."""
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    length, taps = x.shape[1], weight.shape[1]
    if before is None:
        before = x.new_zeros(x.shape[0], taps - 1, x.shape[2])
    inputs = torch.cat([before.to(dtype), x.to(dtype)], dim=1)
    weight = weight.to(dtype)
    total = sum(inputs[:, k : k + length] * weight[:, k] for k in range(taps))
    return F.silu(total if bias is None else total + bias.to(dtype)).to(x.dtype)


def _last(x: Tensor, before: Tensor | None, count: int) -> Tensor:
    """The last `count` inputs; those of a short piece follow those before it, or zeros."""
    if x.shape[1] >= count:
        return x[:, x.shape[1] - count :].clone()
    if before is None:
        before = x.new_zeros(x.shape[0], count, x.shape[2])
    return torch.cat([before[:, x.shape[1] :].to(x.dtype), x], dim=1)


def _check(x: Tensor, weight: Tensor, bias: Tensor | None, before: Tensor | None) -> None:
    if x.ndim != 3 or weight.ndim != 2 or weight.shape[0] != x.shape[2]:
        raise ValueError(
            f"causal_conv: x is {tuple(x.shape)} and weight {tuple(weight.shape)}, expected "
            "(batch, length, channels) and (channels, taps)"
        )
    batch, _, channels = x.shape
    expected = {"bias": (bias, (channels,)), "before": (before, (batch, weight.shape[1] - 1, channels))}
    for name, (value, shape) in expected.items():
        if value is not None and tuple(value.shape) != shape:
            raise ValueError(f"causal_conv: {name} has shape {tuple(value.shape)}, expected {shape}")
