"""RMSNorm in one pass for rows of any width, which can round for the matrix product that follows.

    y = w ∘ x / sqrt(mean(x²) + ε)

PyTorch gives each row a block of threads, which rows of 16 leave idle, and autocast rounds the result in a
pass of its own. The numbers are the same up to the order of sums.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

MOST = 8192
"""Widest row of the kernels; they hold it in registers."""


def rms_norm(x: Tensor, weight: Tensor, eps: float, *, for_product: bool = False) -> Tensor:
    """Normalise the last dimension.

    Args:
        x: `(..., width)`, any float type and layout.
        weight: `(width,)`.
        eps: added to the mean square.
        for_product: what follows is a matrix product, which autocast would round the result for.

    Returns:
        the shape and type of x; autocast's type on CUDA under autocast if `for_product`.
    """
    if x.device.type != "cuda" or x.dtype == torch.float64 or x.numel() == 0 or x.shape[-1] > MOST:
        return F.rms_norm(x, weight.shape, weight, eps)
    from lgbench.ops.rms_norm_triton import RmsNorm

    narrow = for_product and torch.is_autocast_enabled("cuda")
    return RmsNorm.apply(x, weight, eps, torch.get_autocast_dtype("cuda") if narrow else x.dtype)
