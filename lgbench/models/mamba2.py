"""The block of Mamba-2: one decay a head, a scan that is mostly matrix products, and the seam of `Mamba`.

    [z; a; τ] = W_in RMSNorm(r);  [x; B; C] = SiLU(conv(a));  Δ = softplus(τ + b_dt)     Δ: a number a head
    y = ssd(Δ, A, B, C, x) + D x;  r ← r + W_out RMSNorm(y ∘ SiLU(z))

What hooks see is as in `Mamba`, with heads in place of channels: Δ `(batch, length, heads)`, A `(heads,)`,
states `(batch, heads, head_dim, d_state)`; x is `(batch, length, d_inner)`. All heads share B and C; with
several groups, the heads of each do, each group of y has a norm of its own, and B and C are recorded as
`(batch, length, groups, d_state)`.
Source: Dao and Gu, arXiv:2405.21060, §7, start as released (norm after the gate).
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

    def __init__(
        self,
        d_model: int,
        d_inner: int,
        d_state: int,
        head_dim: int,
        conv_width: int,
        norm_eps: float = 1e-5,
        groups: int = 1,
    ) -> None:
        super().__init__()
        heads = d_inner // head_dim
        self.d_inner, self.d_state, self.head_dim, self.groups = d_inner, d_state, head_dim, groups
        self.num_channels, self.state_shape = heads, (heads, head_dim, d_state)
        width = d_inner + 2 * groups * d_state
        self.norm = nn.RMSNorm(d_model, eps=norm_eps)
        self.in_proj = nn.Linear(d_model, d_inner + width + heads, bias=False)
        self.conv = nn.Conv1d(width, width, conv_width, groups=width) if conv_width else None
        self.A_log = nn.Parameter(torch.empty(heads).uniform_(1, 16).log())
        self.D = nn.Parameter(torch.ones(heads))
        self.gated_norm = nn.RMSNorm(d_inner, eps=norm_eps)
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
        d_inner, shared = self.d_inner, self.groups * self.d_state
        z, a, tau = self.in_proj(self.norm(residual)).split(
            [d_inner, d_inner + 2 * shared, self.num_channels], dim=-1
        )
        mixed, conv_state = convolve(self.conv, a, start.conv, mask)
        x, B, C = mixed.split([d_inner, shared, shared], dim=-1)
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
        y, state = self._scan(x, delta, A, B, C, start.scan, mask, scan_backend)
        if "record" in hooks:
            if self.groups > 1:
                B, C = (t.unflatten(-1, (self.groups, -1)) for t in (B, C))
            intervention.record(layer, delta=delta, A=A, B=B, C=C, x=x, state=state)
        y = self._norm((y * F.silu(z)).to(self.gated_norm.weight.dtype))
        return residual + self.out_proj(y), kept, LayerState(state, conv_state)

    def _scan(
        self,
        x: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        h0: Tensor | None,
        mask: Tensor | None,
        backend: str,
    ) -> tuple[Tensor, Tensor]:
        """The scans of all groups: y `(batch, length, d_inner)` and the state of all heads."""
        x = x.unflatten(-1, (-1, self.head_dim))
        if self.groups == 1:
            y, state = ssd(x, delta, A, B, C, self.D, h0=h0, mask=mask, backend=backend)
            return y.flatten(-2), state
        by_head = [t.chunk(self.groups, dim=d) for t, d in ((x, 2), (delta, 2), (A, 0), (self.D, 0))]
        shared = [t.chunk(self.groups, dim=-1) for t in (B, C)]
        starts = [None] * self.groups if h0 is None else h0.chunk(self.groups, dim=1)
        done = [
            ssd(x, delta, A, B, C, D, h0=h, mask=mask, backend=backend)
            for x, delta, A, D, B, C, h in zip(*by_head, *shared, starts, strict=True)
        ]
        return torch.cat([y for y, _ in done], dim=2).flatten(-2), torch.cat([h for _, h in done], dim=1)

    def _norm(self, y: Tensor) -> Tensor:
        if self.groups == 1:
            return self.gated_norm(y)
        apart = y.unflatten(-1, (self.groups, -1))
        return (
            F.rms_norm(apart, apart.shape[-1:], eps=self.gated_norm.eps).flatten(-2) * self.gated_norm.weight
        )
