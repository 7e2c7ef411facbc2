"""The selective-scan block of Mamba: takes a state in, gives one out, and lets a method change the scan.

    u = RMSNorm(r);  [a; z] = W_in u;  s = SiLU(conv(a));  [τ; B; C] = W_x s;  Δ = softplus(W_dt τ + b_dt)
    y = scan(Δ, A, B, C, s) + D∘s;  r ← r + W_out (y ∘ SiLU(z))

Source: Gu and Dao, arXiv:2312.00752, §3.4. Without the convolution it is the model of the image
reconstruction paper (Rathjens et al.), whose initialisation is the default here. With RMS norms of τ, B and
C, without weights, it is Falcon Mamba (Zuo et al., arXiv:2410.05355, §2.1).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lgbench.intervention import ScanIntervention
from lgbench.ops.block.mamba_block import mamba_block
from lgbench.ops.causal_conv import causal_conv
from lgbench.ops.rms_norm import rms_norm
from lgbench.ops.scan.selective_scan import selective_scan

NEEDS_DELTA = frozenset({"timestep", "keep", "record"})
"""Hooks for which the fused block has no room; A is changed before it."""


class LayerState(NamedTuple):
    """What a block carries along the sequence."""

    scan: Tensor
    """`(batch, d_inner, d_state)` float32."""
    conv: Tensor | None
    """Last inputs of the convolution, `(batch, conv_width - 1, d_inner)`; None without one."""


class MambaBlock(nn.Module):
    """One pre-norm residual block; see the module's docstring for the formulas."""

    def __init__(
        self,
        d_model: int,
        d_inner: int,
        d_state: int,
        dt_rank: int,
        conv_width: int,
        init_std: float,
        norm_eps: float,
        mixer_norm_eps: float | None = None,
    ) -> None:
        super().__init__()
        self.d_inner, self.d_state, self.dt_rank = d_inner, d_state, dt_rank
        self.num_channels, self.state_shape = d_inner, (d_inner, d_state)
        self.mixer_norm_eps = mixer_norm_eps
        self.norm = nn.RMSNorm(d_model, eps=norm_eps)
        self.in_proj = nn.Linear(d_model, 2 * d_inner, bias=False)
        self.conv = nn.Conv1d(d_inner, d_inner, conv_width, groups=d_inner) if conv_width else None
        self.x_proj = nn.Linear(d_inner, dt_rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(dt_rank, d_inner)
        self.A_log = nn.Parameter(torch.arange(1, d_state + 1).float().log().repeat(d_inner, 1))
        self.D = nn.Parameter(torch.ones(d_inner))
        self.out_proj = nn.Linear(d_inner, d_model, bias=False)
        nn.init.normal_(self.in_proj.weight, std=init_std)
        nn.init.normal_(self.x_proj.weight, std=init_std)
        nn.init.uniform_(self.dt_proj.weight, -(dt_rank**-0.5), dt_rank**-0.5)
        with torch.no_grad():
            dt = torch.exp(torch.rand(d_inner) * math.log(0.1 / 0.001) + math.log(0.001)).clamp(min=1e-4)
            self.dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # the inverse of softplus

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
        u = rms_norm(residual, self.norm.weight, self.norm.eps, for_product=True)
        a, z = self.in_proj(u).chunk(2, dim=-1)
        x, conv_state = convolve(self.conv, a, start.conv, mask)
        tau, B, C = self.x_proj(x).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        if self.mixer_norm_eps is not None:
            tau, B, C = (F.rms_norm(t, t.shape[-1:], eps=self.mixer_norm_eps) for t in (tau, B, C))
        delta, bias = F.linear(tau, self.dt_proj.weight), self.dt_proj.bias
        if hooks & NEEDS_DELTA:  # otherwise the scan adds the bias and applies softplus as it reads
            wide = torch.promote_types(delta.dtype, torch.float32)
            delta, bias = drop_masked(F.softplus(delta.to(wide) + bias.to(wide)), mask, hooks), None
        A = -torch.exp(self.A_log.float())
        if "timestep" in hooks:
            delta = intervention.timestep(layer, delta)
        if "transition" in hooks:
            A = intervention.transition(layer, A)
        kept = intervention.keep(layer, delta, x) if "keep" in hooks else None
        if kept is not None:
            residual, x, z, delta, B, C = (gather(t, kept) for t in (residual, x, z, delta, B, C))
            mask = mask if mask is None else mask.expand(kept.shape[0], -1).gather(1, kept)
        y, state = selective_scan(
            x, delta, A, B, C, self.D, z=z, delta_bias=bias, softplus=bias is not None, h0=start.scan,
            mask=mask, backend="auto" if scan_backend == "block" else scan_backend,
        )  # fmt: skip
        if "record" in hooks:
            intervention.record(layer, delta=delta, A=A, B=B, C=C, x=x, state=state)
        return residual + self.out_proj(y), kept, LayerState(state, conv_state)

    def fused(
        self, residual: Tensor, h0: Tensor | None, mask: Tensor | None, A_log: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The same block without convolution in fused kernels: residual and final state."""
        return mamba_block(
            residual,
            norm_weight=self.norm.weight,
            in_proj=self.in_proj.weight,
            x_proj=self.x_proj.weight,
            dt_weight=self.dt_proj.weight,
            dt_bias=self.dt_proj.bias,
            A_log=A_log,
            D=self.D,
            out_proj=self.out_proj.weight,
            eps=self.norm.eps,
            h0=h0,
            mask=mask,
        )


def convolve(
    conv: nn.Conv1d | None, a: Tensor, before: Tensor | None, mask: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """SiLU of the causal convolution `(batch, length, width)`, and the inputs to carry along.

    Args:
        conv: depthwise; None leaves the SiLU alone.
        a: `(batch, length, width)`.
        before: what the previous piece carried along; None at the start.
        mask: bool `(length,)` or `(batch, length)`. Real tokens are neighbours whatever was masked between.
    """
    if conv is None:
        return F.silu(a), None
    return causal_conv(a, conv.weight.squeeze(1), conv.bias, before, mask)


def drop_masked(delta: Tensor, mask: Tensor | None, hooks: frozenset[str]) -> Tensor:
    """Δ `(batch, length, …)` as hooks that look at tokens see it: 0 where a token is masked, so not there."""
    if mask is None or not hooks & {"keep", "record"}:
        return delta
    return delta.masked_fill(~mask.expand(delta.shape[:2]).unsqueeze(-1), 0.0)


def gather(values: Tensor, index: Tensor) -> Tensor:
    """Rows `(batch, kept, width)` of values `(batch, length, width)` at indices `(batch, kept)`."""
    return values.gather(1, index.unsqueeze(-1).expand(-1, -1, values.shape[-1]))
