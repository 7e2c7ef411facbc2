"""Mamba-2: one decay a head, a scan that is mostly matrix products, and every hook of the intervention.

Source: Dao and Gu, arXiv:2405.21060, §7; layers in `lgbench.models.mamba2`.
"""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor, nn

from lgbench.backbone import Backbone
from lgbench.backbones.mamba import Mamba
from lgbench.models.mamba2 import Mamba2Block
from lgbench.ops.ssd.ssd import resolve_ssd_backend


class Mamba2(Mamba):
    """`Mamba` with other blocks; `scan_backend` is one of `lgbench.ops.ssd.ssd`.

    Raises:
        ValueError: heads of this width do not make up the inner width, or groups of equal size the heads.
    """

    stackable = False

    class Params(Backbone.Params):
        """Sizes."""

        d_state: int = Field(8, ge=1, description="state size of each element of a head")
        expand: int = Field(2, ge=1, description="inner width, as a multiple of d_model")
        head_dim: int | None = Field(
            None, ge=1, description="width of a head; if not set, the largest power of two up to 64 that "
            "makes at least four heads",
        )  # fmt: skip
        conv_width: int = Field(0, ge=0, description="taps of the convolution of x, B and C; 0 leaves it out")
        norm_eps: float = Field(1e-5, gt=0, description="what all norms add to the mean square")
        groups: int = Field(1, ge=1, description="sets of B and C, each shared by equally many heads")

    def build(self, d_model: int, num_layers: int) -> None:
        """Make the blocks."""
        p = self.params
        d_inner = p.expand * d_model
        head_dim = p.head_dim or math.gcd(64, max(1, d_inner // 4))
        if d_inner % head_dim:
            raise ValueError(f"head_dim must divide d_inner={d_inner}, got {head_dim}")
        if d_inner // head_dim % p.groups:
            raise ValueError(f"groups must divide the number of heads, {d_inner // head_dim}, got {p.groups}")
        self.blocks = nn.ModuleList(
            Mamba2Block(d_model, d_inner, p.d_state, head_dim, p.conv_width, p.norm_eps, p.groups)
            for _ in range(num_layers)
        )
        self.norm = nn.RMSNorm(d_model, eps=p.norm_eps)

    def fused(self, tokens: Tensor) -> bool:
        """There is no fused block for it."""
        return False

    def backend_name(self, tokens: Tensor, hooks: frozenset[str]) -> str:
        """What computes the scan; stored in rows."""
        return resolve_ssd_backend(self.scan_backend, tokens.device, self.params.d_state)

    @classmethod
    def check_backend(cls, params: Params, scan_backend: str, device: torch.device) -> None:
        """Ask the table of back ends."""
        resolve_ssd_backend(scan_backend, device, params.d_state)
