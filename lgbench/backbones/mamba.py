"""Mamba: selective scans, with every hook of the intervention.

Source: Gu and Dao, arXiv:2312.00752, §3.4; layers in `lgbench.models.mamba`. The defaults are those of the
image reconstruction paper (Rathjens et al.), which leaves the convolution out.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from lgbench.backbone import Advance, Backbone, begin_sequence
from lgbench.intervention import Mode, ScanIntervention, active_hooks
from lgbench.models.mamba import NEEDS_DELTA, LayerState, MambaBlock
from lgbench.ops.block.mamba_block import supports
from lgbench.ops.rms_norm import rms_norm
from lgbench.ops.scan.selective_scan import resolve_backend


class Mamba(Backbone):
    """Blocks that take a state in, give one out, and let a method change the scan.

    `scan_backend` is one of `lgbench.ops.scan.selective_scan`; "auto" also admits the fused block where it
    fits and no hook needs what it keeps on chip.
    """

    class Params(Backbone.Params):
        """Sizes."""

        d_state: int = Field(8, ge=1, description="state size of each channel")
        expand: int = Field(2, ge=1, description="inner width, as a multiple of d_model")
        dt_rank: int | None = Field(
            None, ge=1, description="rank of the projection to the time step; d_model / 16 if not set"
        )
        conv_width: int = Field(0, ge=0, description="taps of the causal convolution; 0 leaves it out")
        init_std: float = Field(
            0.1, gt=0, description="standard deviation of the in- and x-projections at the start"
        )
        norm_eps: float = Field(1e-5, gt=0, description="what all norms add to the mean square")
        mixer_norm_eps: float | None = Field(
            None, gt=0, description="the same of Falcon Mamba's norms of Δ, B and C; null leaves them out"
        )

    hooks: ClassVar[frozenset[str]] = frozenset(
        {"sequence", "timestep", "transition", "state", "keep", "initial_state", "final_state", "record"}
    )
    capturable: ClassVar[bool] = True
    stackable: ClassVar[bool] = True
    widest: ClassVar[torch.dtype] = torch.float32

    def build(self, d_model: int, num_layers: int) -> None:
        p = self.params
        dt_rank = p.dt_rank or math.ceil(d_model / 16)
        start_and_norms = (p.init_std, p.norm_eps, p.mixer_norm_eps)
        self.blocks = nn.ModuleList(
            MambaBlock(d_model, p.expand * d_model, p.d_state, dt_rank, p.conv_width, *start_and_norms)
            for _ in range(num_layers)
        )
        self.norm = nn.RMSNorm(d_model, eps=p.norm_eps)

    def advance(
        self,
        tokens: Tensor,
        *,
        mode: Mode,
        state: list[LayerState] | None = None,
        mask: Tensor | None = None,
        read: int | None = None,
        intervention: ScanIntervention,
    ) -> Advance:
        hooks = active_hooks(intervention, mode)
        if state is None:
            tokens, mask = begin_sequence(tokens, mask, intervention, mode)
        positions, states, processed = None, [], []
        for layer, block in enumerate(self.blocks):
            start = state[layer] if state is not None else None
            if start is None:
                start = LayerState(_start(intervention, hooks, layer, len(tokens)), None)
            elif "state" in hooks:
                start = intervention.state(layer, start)
            here = active_hooks(intervention, mode, layer)
            if self.fused(tokens) and not here & NEEDS_DELTA:
                kept, A_log = None, block.A_log
                if "transition" in here:
                    A_log = (-intervention.transition(layer, -A_log.float().exp())).log()
                tokens, end = block.fused(tokens, start.scan, mask, A_log)
                states.append(LayerState(end, None))
            else:
                tokens, kept, end = block(tokens, start, mask, layer, here, intervention, self.scan_backend)
                states.append(end)
            processed.append(tokens.shape[1])
            if "final_state" in hooks:
                intervention.final_state(layer, states[-1].scan)
            if kept is not None:
                positions = kept if positions is None else positions.gather(1, kept)
                mask = mask if mask is None else mask.expand(kept.shape[0], -1).gather(1, kept)
        self.processed = tuple(processed)
        if positions is None:
            positions = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape[0], -1)
        first = 0 if read is None else tokens.shape[1] - read
        hidden = rms_norm(tokens[:, first:], self.norm.weight, self.norm.eps)
        return Advance(hidden, positions[:, first:], states)

    def answer(
        self,
        context: Tensor,
        queries: Tensor,
        *,
        mode: Mode,
        context_mask: Tensor | None = None,
        query_mask: Tensor | None = None,
        intervention: ScanIntervention,
    ) -> Tensor:
        tokens = torch.cat([context, queries], dim=1)
        mask = None if context_mask is None else F.pad(context_mask, (0, queries.shape[1]), value=True)
        return self.advance(
            tokens, mode=mode, mask=mask, read=queries.shape[1], intervention=intervention
        ).hidden

    def fused(self, tokens: Tensor) -> bool:
        """Whether the fused block serves this model on this device, for methods whose hooks allow it."""
        block = self.blocks[0]
        plain = block.conv is None and block.mixer_norm_eps is None
        if self.scan_backend not in ("auto", "block") or not plain:
            return False
        sizes = tokens.shape[-1], block.d_inner, block.d_state, block.dt_rank
        return supports(*sizes, tokens.dtype, tokens.device)

    def backend_name(self, tokens: Tensor, hooks: frozenset[str]) -> str:
        """What computes the scan for tokens like these: "block" (fused) or a back end; stored in rows."""
        if self.fused(tokens) and not hooks & NEEDS_DELTA:
            return "block"
        name = "auto" if self.scan_backend == "block" else self.scan_backend
        return resolve_backend(name, tokens.device, self.params.d_state)

    @classmethod
    def check_backend(cls, params: Params, scan_backend: str, device: torch.device) -> None:
        """Ask the table of back ends; the fused block falls back to what `auto` picks."""
        resolve_backend("auto" if scan_backend == "block" else scan_backend, device, params.d_state)


def _start(intervention: ScanIntervention, hooks: frozenset[str], layer: int, batch: int) -> Tensor | None:
    start = intervention.initial_state(layer) if "initial_state" in hooks else None
    return None if start is None else start[:batch]
