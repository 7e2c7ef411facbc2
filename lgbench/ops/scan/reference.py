"""The definition of the selective scan: one time step after another, in float64, differentiable by autograd.

Slow on purpose, and short enough to be checked by eye. Every other back end is held to it.
Sizes as in `selective_scan`: B batch, L length, E d_inner, N d_state.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


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
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, Tensor]:
    """The scan by its definition; arguments and meaning as in `selective_scan`.

    Args:
        dtype: the type of all arithmetic. float32 is there to compare speeds; the definition is float64.

    Returns:
        y `(B, L, E)` in the type of `x`, and the last state `(B, E, N)`, float64 if `x` is and float32 else.
    """
    batch, length, channels = x.shape
    step = delta.to(dtype)
    if delta_bias is not None:
        step = step + delta_bias.to(dtype)
    if softplus:
        step = F.softplus(step)
    if mask is not None:
        step = step.masked_fill(~mask.expand(batch, length)[..., None], 0.0)
    u, A, B, C = (v.to(dtype) for v in (x, A, B, C))
    h = u.new_zeros(batch, channels, A.shape[1]) if h0 is None else h0.to(dtype)
    outputs = []
    for x_t, step_t, B_t, C_t in zip(u.unbind(1), step.unbind(1), B.unbind(1), C.unbind(1), strict=True):
        h = torch.exp(step_t[:, :, None] * A) * h + (step_t * x_t)[:, :, None] * B_t[:, None, :]
        outputs.append((h * C_t[:, None, :]).sum(-1))
    y = torch.stack(outputs, 1) if outputs else torch.zeros_like(u)
    if D is not None:
        y = y + D.to(dtype) * u
    if z is not None:
        y = y * F.silu(z.to(dtype))
    return y.to(x.dtype), h.to(torch.float64 if x.dtype == torch.float64 else torch.float32)
