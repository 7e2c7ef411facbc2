"""The selective scan in plain PyTorch, for any device.

Sizes as in `selective_scan`: B batch, L length, E d_inner, N d_state.
"""

import torch
from torch import Tensor

from lgbench.ops import scan_reference


def scan(
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    h0: Tensor | None = None,
    mask: Tensor | None = None,
    delta_bias: Tensor | None = None,
    softplus: bool = False,
) -> tuple[Tensor, Tensor]:
    """The scan in float32 (float64 if `x` is); arguments and meaning as in `selective_scan`."""
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    return scan_reference.scan(x, delta, A, B, C, D, z, h0, mask, delta_bias, softplus, dtype=dtype)
