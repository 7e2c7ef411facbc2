"""Where a token stands, told to a transformer: rotations (RoPE), slopes (ALiBi) or waves added to the input.

Angles are computed in float64: at a million tokens float32 would be off by several hundredths of a radian.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

BASE = 10_000.0


def rope_angles(positions: Tensor, head: int) -> tuple[Tensor, Tensor]:
    """Cosine and sine of θ_i = position · 10000^(-2i/head), both float32 `(..., length, head / 2)`.

    Source: Su et al., arXiv:2104.09864, eq. 15.

    Args:
        positions: int64 `(..., length)`.
        head: width of a head, even.
    """
    angles = _angles(positions, head)
    return angles.cos().float(), angles.sin().float()


def rotate(x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate component i of `(batch, heads, length, head)` with component i + head / 2, at least in float32.

    The paper pairs neighbours, which is the same up to the order of the weights' rows.
    """
    cos, sin = angles
    one, two = x.to(torch.promote_types(x.dtype, torch.float32)).chunk(2, dim=-1)
    return torch.cat([one * cos - two * sin, one * sin + two * cos], dim=-1).to(x.dtype)


def alibi_slopes(num_heads: int) -> Tensor:
    """Slopes `(num_heads,)` float32: 2^(-8k/n) for k = 1 … n, where n is a power of two.

    Other numbers of heads take every other slope of 2n for those beyond the largest power n.
    Source: Press et al., arXiv:2108.12409, §3, and their released code.
    """
    power = 2 ** int(math.log2(num_heads))
    slopes = [2 ** (-8 * k / power) for k in range(1, power + 1)]
    slopes += [2 ** (-4 * k / power) for k in range(1, 2 * (num_heads - power), 2)]
    return torch.tensor(slopes)


def sinusoid(positions: Tensor, d_model: int) -> Tensor:
    """Sines, then cosines of the same angles, float32 `(..., length, d_model)`.

    Source: Vaswani et al., arXiv:1706.03762, §3.5, who interleave the two.

    Args:
        positions: int64 `(..., length)`.
        d_model: even.
    """
    angles = _angles(positions, d_model)
    return torch.cat([angles.sin(), angles.cos()], dim=-1).float()


def _angles(positions: Tensor, width: int) -> Tensor:
    exponent = torch.arange(0, width, 2, device=positions.device, dtype=torch.float64) / width
    return positions.double().unsqueeze(-1) * BASE**-exponent
