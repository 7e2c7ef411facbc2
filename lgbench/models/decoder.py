"""Layers of the decoder-only transformer: attention with a cache of keys and values, four position codes.

    r ← r + W_o attention(RMSNorm(r));  r ← r + W_2 (SiLU(W_1 u) ∘ W_3 u),  u = RMSNorm(r)

`position` is all that differs between rope, alibi, sinusoidal and nope (none at all: Kazemnejad et al.,
arXiv:2305.19466). Masked tokens are seen by nobody, and positions count real tokens only, so padding changes
nothing. Blocks: Touvron et al., arXiv:2302.13971; initialisation: GPT-2, N(0, 0.02²), with the two matrices
that write into the residual stream scaled by 1/√(2 · layers).
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention.bias import causal_lower_right

from lgbench.models.kv_cache import KeyValues, LayerCache
from lgbench.models.positions import rotate

Position = Literal["rope", "alibi", "nope", "sinusoidal"]

QUERY_SLICE = 512
"""Queries whose bias exists at a time, at most."""

BIAS_ELEMENTS = 2**26
"""Elements of a bias that exist at a time, at most; long caches get thinner slices."""


class View(NamedTuple):
    """What the layers share while they process a piece whose real tokens come first."""

    positions: Tensor
    """int64 `(1, length)`, or `(batch, length)` where tokens were masked before."""
    key_positions: Tensor | None
    """int64 `(1 or batch, past + length)`; for alibi only."""
    real: Tensor | None
    """bool `(batch, past)`, False for past tokens that were masked; None where there are none."""
    angles: tuple[Tensor, Tensor] | None
    """Of rope, `(1 or batch, 1, length, head / 2)`."""
    slopes: Tensor | None
    """Of alibi, `(num_heads,)`."""


class DecoderBlock(nn.Module):
    """Attention and gated MLP, both pre-norm and residual; the MLP has as many weights as a plain one of 4
    d_model."""

    def __init__(self, d_model: int, num_heads: int, num_layers: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        inner = 8 * math.ceil(d_model / 3)
        self.norm1, self.norm2 = (nn.RMSNorm(d_model, eps=1e-5) for _ in range(2))
        self.qkv_proj = nn.Linear(d_model, 3 * d_model, bias=False)
        self.out_proj = nn.Linear(d_model, d_model, bias=False)
        self.gate_up_proj = nn.Linear(d_model, 2 * inner, bias=False)
        self.down_proj = nn.Linear(inner, d_model, bias=False)
        for linear in (self.qkv_proj, self.gate_up_proj):
            nn.init.normal_(linear.weight, std=0.02)
        for linear in (self.out_proj, self.down_proj):
            nn.init.normal_(linear.weight, std=0.02 / math.sqrt(2 * num_layers))

    def forward(
        self, x: Tensor, before: KeyValues | None, view: View, keep: bool
    ) -> tuple[Tensor, KeyValues | None]:
        """Residual `(batch, length, d_model)`, and the cache after the piece if it is to be kept."""
        q, k, v = (
            t.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for t in self.qkv_proj(self.norm1(x)).chunk(3, dim=-1)
        )
        head = q.shape[-1]
        if view.angles is not None:
            q, k = rotate(q, view.angles), rotate(k, view.angles)
        if q.is_cuda and head % 8:  # the memory-saving kernels want heads in steps of 8; zeros change nothing
            q, k, v = (F.pad(t, (0, -head % 8)) for t in (q, k, v))
        cache = None
        if before is not None or keep:
            cache = (before or KeyValues(k[:, :, :0], v[:, :, :0], 0)).extended(k, v)
            k, v = cache.keys, cache.values
        out = attend(q, k, v, view, head**-0.5)[..., :head]
        x = x + self.out_proj(out.transpose(1, 2).flatten(2))
        gate, up = self.gate_up_proj(self.norm2(x)).chunk(2, dim=-1)
        return x + self.down_proj(F.silu(gate) * up), cache


def attend(q: Tensor, k: Tensor, v: Tensor, view: View, scale: float) -> Tensor:
    """Causal attention of the last tokens of a sequence to all of it.

    Without a bias the kernels that save memory serve; else the bias is made for a slice of queries at a time.

    Args:
        q: `(batch, heads, length, head)`.
        k: `(batch, heads, past + length, head)`.
        v: like k.
        view: see there.
        scale: factor on the products.

    Returns:
        `(batch, heads, length, head)`.
    """
    length, past = q.shape[2], k.shape[2] - q.shape[2]
    if view.real is None and view.slopes is None:
        if past == 0:
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
        if length == 1:
            return F.scaled_dot_product_attention(q, k, v, scale=scale)
        if q.is_cuda:
            bias = causal_lower_right(length, past + length)
            return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)
    wide = (1 if view.real is None else q.shape[0]) * (1 if view.slopes is None else q.shape[1])
    rows = max(1, min(QUERY_SLICE, BIAS_ELEMENTS // (wide * k.shape[2])))
    outputs = []
    for start in range(0, length, rows):
        stop = min(start + rows, length)
        bias = _bias(view, past, start, stop, q.dtype, q.device)
        seen = slice(0, past + stop)
        outputs.append(
            F.scaled_dot_product_attention(
                q[:, :, start:stop], k[:, :, seen], v[:, :, seen], attn_mask=bias, scale=scale
            )
        )
    return torch.cat(outputs, dim=2)


def _bias(view: View, past: int, start: int, stop: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """What queries `start` to `stop` may see: bool, or for alibi −slope · distance and −∞.

    Shape `(1 or batch, 1 or heads, stop - start, past + stop)`.

    Every token sees itself, masked or not: in its own piece masked ones come last, so no real one sees them.
    """
    end = past + stop
    visible = torch.arange(end, device=device) <= past + torch.arange(start, stop, device=device)[:, None]
    visible = visible[None, None]
    if view.real is not None:
        visible = visible & F.pad(view.real, (0, stop), value=True)[:, None, None]
    if view.slopes is None:
        return visible
    distance = view.positions[:, None, start:stop, None] - view.key_positions[:, None, None, :end]
    bias = -view.slopes[:, None, None] * distance
    return bias.masked_fill(~visible, -math.inf).to(dtype)


def default_heads(d_model: int) -> int:
    """At most one head for every 64, such that heads have an even width."""
    return next((n for n in range(max(1, d_model // 64), 0, -1) if d_model % (2 * n) == 0), 1)


def account(
    before: LayerCache | None, mask: Tensor | None, batch: int, length: int, device: torch.device
) -> tuple[Tensor | None, int | Tensor]:
    """Which cached tokens are real, and how many, after this piece."""
    past, real, count = (before.past.length, before.real, before.count) if before else (0, None, 0)
    if mask is None and real is None:
        return None, count + length
    total = torch.full((batch, 1), length, device=device)
    total = total if mask is None else mask.expand(batch, -1).sum(dim=1, keepdim=True)
    if real is None:
        real = torch.ones(batch, past, dtype=torch.bool, device=device)
    return torch.cat([real, torch.arange(length, device=device) < total], dim=1), count + total


def wide(index: Tensor, width: int) -> Tensor:
    return index.unsqueeze(-1).expand(-1, -1, width)
