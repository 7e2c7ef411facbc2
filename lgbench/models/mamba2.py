"""The block of Mamba-2: one decay a head, a scan that is mostly matrix products, and the seam of `Mamba`.

    [z; a; τ] = W_in RMSNorm(r);  [x; B; C] = SiLU(conv(a));  Δ = softplus(τ + b_dt)     Δ: a number a head
    y = ssd(Δ, A, B, C, x) + D x;  r ← r + W_out RMSNorm(y ∘ SiLU(z))

What hooks see is as in `Mamba`, with heads in place of channels: Δ `(batch, length, heads)`, A `(heads,)`,
states `(batch, heads, head_dim, d_state)`; x is `(batch, length, d_inner)`. B and C are shared by all heads.
Source: Dao and Gu, arXiv:2405.21060, §7, sizes and start as released (one group, norm after the gate).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lgbench.intervention import ScanIntervention
from lgbench.models.mamba import LayerState, convolve, drop_masked, gather
from lgbench.ops.ssd.ssd import ssd


class Mamba2Block(nn.Module):
    """One pre-norm residual block; see the module's docstring for the formulas."""

    def __init__(self, d_model: int, d_inner: int, d_state: int, head_dim: int, conv_width: int) -> None:
        super().__init__()
        heads = d_inner // head_dim
        self.d_inner, self.d_state, self.head_dim = d_inner, d_state, head_dim
        self.num_channels, self.state_shape = heads, (heads, head_dim, d_state)
        width = d_inner + 2 * d_state
        self.norm = nn.RMSNorm(d_model, eps=1e-5)
        self.in_proj = nn.Linear(d_model, d_inner + width + heads, bias=False)
        self.conv = nn.Conv1d(width, width, conv_width, groups=width) if conv_width else None
        self.A_log = nn.Parameter(torch.empty(heads).uniform_(1, 16).log())
        self.D = nn.Parameter(torch.ones(heads))
        self.gated_norm = nn.RMSNorm(d_inner, eps=1e-5)
        self.out_proj = nn.Linear(d_inner, d_model, bias=False)
        dt = torch.exp(torch.rand(heads) * math.log(0.1 / 0.001) + math.log(0.001)).clamp(min=1e-4)
        self.dt_bias = nn.Parameter(dt + torch.log(-torch.expm1(-dt)))  # the inverse of softplus

    def forward(
        self,
        residual: Tensor,
        start: LayerState,
        mask: Tensor | None,
        layer: int,
        hooks: frozenset[str],
        intervention: ScanIntervention,
        scan_backend: str,
    ) -> tuple[Tensor, Tensor | None, LayerState]:
        """Residual `(batch, kept, d_model)`, kept indices `(batch, kept)` or None, state after the piece."""
        d_inner, d_state = self.d_inner, self.d_state
        z, a, tau = self.in_proj(self.norm(residual)).split(
            [d_inner, d_inner + 2 * d_state, self.num_channels], dim=-1
        )
        mixed, conv_state = convolve(self.conv, a, start.conv, mask)
        x, B, C = mixed.split([d_inner, d_state, d_state], dim=-1)
        delta = drop_masked(F.softplus(tau + self.dt_bias), mask, hooks)
        A = -torch.exp(self.A_log.float())
        if "timestep" in hooks:
            delta = intervention.timestep(layer, delta)
        if "transition" in hooks:
            A = intervention.transition(layer, A)
        kept = intervention.keep(layer, delta, x) if "keep" in hooks else None
        if kept is not None:
            residual, x, z, delta, B, C = (gather(t, kept) for t in (residual, x, z, delta, B, C))
            mask = mask if mask is None else mask.expand(kept.shape[0], -1).gather(1, kept)
        y, state = ssd(
            x.unflatten(-1, (-1, self.head_dim)), delta, A, B, C, self.D,
            h0=start.scan, mask=mask, backend=scan_backend,
        )  # fmt: skip
        if "record" in hooks:
            intervention.record(layer, delta=delta, A=A, B=B, C=C, x=x, state=state)
        y = self.gated_norm((y.flatten(-2) * F.silu(z)).to(self.gated_norm.weight.dtype))
        return residual + self.out_proj(y), kept, LayerState(state, conv_state)
