"""RMSNorm that hands matrix products what they read: under autocast in its narrow type, in one pass.

    y = w ∘ x / sqrt(mean(x²) + ε)

Autocast computes norms in float32, and rounds for the next product in a pass of its own. Here both are one,
with the same numbers up to the order of sums.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

MOST = 8192
"""Widest row of the kernels; they hold it in registers."""


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Normalise the last dimension.

    Args:
        x: `(..., width)`, any float type and layout.
        weight: `(width,)`.
        eps: added to the mean square.

    Returns:
        the shape of x; on CUDA under autocast in autocast's type, else in that of x.
    """
    narrow = x.device.type == "cuda" and torch.is_autocast_enabled("cuda")
    if not narrow or x.dtype == torch.float64 or x.numel() == 0 or x.shape[-1] > MOST:
        return F.rms_norm(x, weight.shape, weight, eps)
    from lgbench.ops.rms_norm_triton import RmsNorm

    return RmsNorm.apply(x, weight, eps, torch.get_autocast_dtype("cuda"))
