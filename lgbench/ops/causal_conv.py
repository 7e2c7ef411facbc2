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
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    before: Tensor | None = None,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Convolve a piece of a sequence.

    Autocast changes nothing here: results have the type of x, gradients that of their argument.

    Args:
        x: `(B, L, E)`, any float type, any length; a part of a projection's output is read in place.
        weight: `(E, K)`, oldest input first.
        bias: `(E,)`, or None.
        before: inputs of the piece before, `(B, K - 1, E)`; None is zeros, the start of a sequence.
        mask: bool `(L,)` or `(B, L)`, False for tokens that are not there: real ones are neighbours whatever
            was masked between them. The outputs of masked ones are finite and mean nothing.

    Returns:
        y `(B, L, E)` in the type of x, and the last K - 1 real inputs `(B, K - 1, E)` for the next piece: a
        copy, which keeps nothing of x alive. Both carry gradients.

    Raises:
        ValueError: shapes do not fit.
    """
    _check(x, weight, bias, before, mask)
    fast = x.device.type == "cuda" and x.dtype != torch.float64 and x.numel() > 0
    if mask is not None:
        if fast and x.shape[1] >= weight.shape[1] - 1 and (before is None or not before.requires_grad):
            return _masked_on_cuda(x, weight, bias, before, mask.expand(x.shape[:2]))
        return _sorted(x, weight, bias, before, mask.expand(x.shape[:2]))
    carried = _last(x, before, weight.shape[1] - 1)
    with torch.autocast(x.device.type, enabled=False):
        if not fast:
            return plain(x, weight, bias, before), carried
        from lgbench.ops.causal_conv_triton import CausalConv

        return CausalConv.apply(x, weight, bias, before, None, None), carried


def _sorted(
    x: Tensor, weight: Tensor, bias: Tensor | None, before: Tensor | None, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """The masked convolution: masked tokens go to the front, as zeros, then `before`, then the others."""
    carried = weight.shape[1] - 1
    x = F.pad(x, (0, 0, carried, 0)) if before is None else torch.cat([before.to(x.dtype), x], dim=1)
    real = F.pad(mask, (carried, 0), value=True)
    order = real.int().argsort(dim=1, stable=True)
    y, after = causal_conv(_gather(x * real.unsqueeze(-1), order), weight, bias)
    return _gather(y, order.argsort(dim=1)[:, carried:]), after


def _masked_on_cuda(
    x: Tensor, weight: Tensor, bias: Tensor | None, before: Tensor | None, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """The same without moving x: the kernel goes through the tokens in that order."""
    from lgbench.ops.causal_conv_triton import CausalConv

    carried, length = weight.shape[1] - 1, x.shape[1]
    order = mask.int().argsort(dim=1, stable=True)
    skipped = length - mask.sum(dim=1)
    y = CausalConv.apply(x, weight, bias, before, order.int(), skipped.int())
    place = torch.arange(length - carried, length, device=x.device) - skipped.unsqueeze(1)
    last = _gather(x, order[:, length - carried :])
    past = torch.zeros_like(last) if before is None else before.to(x.dtype)
    past = _gather(past, (place + carried).clamp(max=carried - 1)) if carried else last
    return y, torch.where((place >= 0).unsqueeze(-1), last, past)


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


def _gather(values: Tensor, index: Tensor) -> Tensor:
    return values.gather(1, index.unsqueeze(-1).expand(-1, -1, values.shape[-1]))


def _check(
    x: Tensor, weight: Tensor, bias: Tensor | None, before: Tensor | None, mask: Tensor | None
) -> None:
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
    if mask is not None and tuple(mask.shape) not in (x.shape[1:2], x.shape[:2]):
        raise ValueError(
            f"causal_conv: mask has shape {tuple(mask.shape)}, expected {tuple(x.shape[1:2])} or "
            f"{tuple(x.shape[:2])}"
        )
