"""Layers of the encoder-decoder transformer, the length-robust baseline of the image reconstruction paper.

Pre-norm blocks with layer scale (initially 1e-4) and stochastic depth (0.05). No norm at either end.
Source: Rathjens et al. and their public code; layer scale: Touvron et al., arXiv:2103.17239; stochastic
depth: Huang et al., arXiv:1603.09382.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class DropPath(nn.Module):
    """Stochastic depth per sample, rescaled by the keep probability; draws from `generator` if set."""

    generator: torch.Generator | None = None

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, branch: Tensor) -> Tensor:
        """Zero whole samples of `(batch, length, d_model)` in training, identity otherwise."""
        if not self.training or self.probability == 0:
            return branch
        keep = 1 - self.probability
        draw = torch.rand(branch.shape[0], 1, 1, device=branch.device, generator=self.generator)
        return branch * (draw < keep) / keep


class Attention(nn.Module):
    """Multi-head attention with biases: Xavier-uniform in-projection, zero biases."""

    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.in_proj = nn.Linear(d_model, 3 * d_model)
        self.out_proj = nn.Linear(d_model, d_model)
        nn.init.xavier_uniform_(self.in_proj.weight)
        nn.init.zeros_(self.in_proj.bias)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, queries: Tensor, keys: Tensor, mask: Tensor | None) -> Tensor:
        """Attend from `(batch, n, d_model)` to `(batch, m, d_model)`; mask bool `(m,)`, True may be seen."""
        d_model = queries.shape[-1]
        w_q, w_kv = self.in_proj.weight.split([d_model, 2 * d_model])
        b_q, b_kv = self.in_proj.bias.split([d_model, 2 * d_model])
        k, v = F.linear(keys, w_kv, b_kv).chunk(2, dim=-1)
        q, k, v = (
            t.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for t in (F.linear(queries, w_q, b_q), k, v)
        )
        head = q.shape[-1]
        if q.is_cuda and head % 8:  # the memory-saving kernels want heads in steps of 8; zeros change nothing
            q, k, v = (F.pad(t, (0, -head % 8)) for t in (q, k, v))
        mask = None if mask is None else mask.expand(q.shape[2], -1)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=head**-0.5)[..., :head]
        return self.out_proj(out.transpose(1, 2).flatten(2))


class EncoderBlock(nn.Module):
    """Self-attention and MLP."""

    def __init__(self, d_model: int, num_heads: int, drop_path: DropPath) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(d_model, eps=1e-6), Attention(d_model, num_heads)
        self.norm2, self.mlp = nn.LayerNorm(d_model, eps=1e-6), _mlp(d_model)
        self.scale1, self.scale2 = _layer_scale(d_model), _layer_scale(d_model)
        self.drop_path = drop_path

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Context tokens `(batch, length, d_model)` to the same shape."""
        u = self.norm1(x)
        x = x + self.drop_path(self.scale1 * self.attention(u, u, mask))
        return x + self.drop_path(self.scale2 * self.mlp(self.norm2(x)))


class DecoderBlock(nn.Module):
    """Self-attention among the queries, cross-attention to the encoder's raw output, MLP."""

    def __init__(self, d_model: int, num_heads: int, drop_path: DropPath) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(d_model, eps=1e-6), Attention(d_model, num_heads)
        self.norm2, self.cross = nn.LayerNorm(d_model, eps=1e-5), Attention(d_model, num_heads)
        self.norm3, self.mlp = nn.LayerNorm(d_model, eps=1e-6), _mlp(d_model)
        self.scale1, self.scale2, self.scale3 = (_layer_scale(d_model) for _ in range(3))
        self.drop_path = drop_path

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor | None, memory_mask: Tensor | None) -> Tensor:
        """Queries `(batch, num_queries, d_model)` given the context `(batch, length, d_model)`."""
        u = self.norm1(x)
        x = x + self.drop_path(self.scale1 * self.attention(u, u, mask))
        x = x + self.drop_path(self.scale2 * self.cross(self.norm2(x), memory, memory_mask))
        return x + self.drop_path(self.scale3 * self.mlp(self.norm3(x)))


def _mlp(d_model: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))


def _layer_scale(d_model: int) -> nn.Parameter:
    return nn.Parameter(torch.full((d_model,), 1e-4))
