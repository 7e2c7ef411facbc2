"""Mamba once more from its formulas, in float64 and by no back end: what the end of a long stream is held to.

    u = RMSNorm(r);  [a; z] = W_in u;  s = SiLU(conv(a));  [τ; B; C] = W_x s;  Δ = softplus(W_dt τ + b_dt)
    y = scan(Δ, A, B, C, s);  r ← r + W_out (y ∘ SiLU(z))

Only the weights are those of `lgbench.models.mamba`. On CUDA the recurrence runs step after step in a kernel
of its own, so that a million tokens of a deep model take seconds; on the CPU it is the `torch` scan.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from lgbench.backbones.mamba import Mamba
from lgbench.models.mamba import MambaBlock
from lgbench.ops.scan.selective_scan import selective_scan


class Carried(NamedTuple):
    """What a layer hands from piece to piece, float64."""

    scan: Tensor | None
    """`(batch, d_inner, d_state)`; None before the first piece."""
    conv: Tensor | None
    """Last inputs of the convolution, `(batch, conv_width - 1, d_inner)`."""


@torch.no_grad()
def advance(model: Mamba, tokens: Tensor, carried: list[Carried] | None) -> tuple[Tensor, list[Carried]]:
    """Hidden states `(batch, length, d_model)` of a piece, and what the next piece needs.

    Args:
        model: with a convolution, and all parameters in float64.
        tokens: `(batch, length, d_model)` float64, on the model's device.
        carried: what the piece before returned; None at the start.
    """
    states = []
    for block, before in zip(model.blocks, carried or [Carried(None, None)] * len(model.blocks), strict=True):
        tokens, after = _block(block, tokens, before)
        states.append(after)
    return _normed(tokens, model.norm), states


def _block(block: MambaBlock, residual: Tensor, before: Carried) -> tuple[Tensor, Carried]:
    a, z = F.linear(_normed(residual, block.norm), block.in_proj.weight).chunk(2, dim=-1)
    weight, length = block.conv.weight[:, 0], a.shape[1]
    taps = weight.shape[1]
    past = a.new_zeros(a.shape[0], taps - 1, a.shape[2]) if before.conv is None else before.conv
    a = torch.cat([past, a], dim=1)
    s = block.conv.bias.expand(a.shape[0], length, -1).clone()
    for k in range(taps):
        s.addcmul_(a[:, k : k + length], weight[:, k])
    s = F.silu(s)
    tau, B, C = F.linear(s, block.x_proj.weight).split([block.dt_rank, block.d_state, block.d_state], dim=-1)
    delta = F.softplus(F.linear(tau, block.dt_proj.weight, block.dt_proj.bias))
    y, state = _scan(s, delta, -block.A_log.exp(), B, C, block.D, before.scan)
    return residual + F.linear(y * F.silu(z), block.out_proj.weight), Carried(state, a[:, length:].clone())


def _normed(tokens: Tensor, norm: torch.nn.RMSNorm) -> Tensor:
    return tokens * (tokens.square().mean(dim=-1, keepdim=True) + norm.eps).rsqrt() * norm.weight


def _scan(x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, h0: Tensor | None):
    if x.device.type == "cuda":
        from lgbench.ops.scan.float64 import scan_float64

        return scan_float64(x, delta, A, B, C, D, h0)
    return selective_scan(x, delta, A, B, C, D, h0=h0, backend="torch")
