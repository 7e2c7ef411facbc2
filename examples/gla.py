"""Gated linear attention in plain torch: a matrix as state, a gate for each of its rows.

    S_t = diag(exp g_t) S_(t-1) + w_t k_t v_tᵀ        y_t = S_tᵀ q_t

The gate g and the strength w go through the hooks `decay` and `write`, so what scales Mamba's time steps or
decay rates acts here too. Source: Yang et al., arXiv:2312.06635, §4; the strength w = 1 is only there for
the hook.
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from lgbench.backbone import Backbone, Seam

PIECE = 16
"""Tokens that see one another through a product; the others through the state."""


class Gla(Backbone):
    """Streams in constant memory, and methods may change its gates."""

    class Params(Backbone.Params):
        num_heads: int = Field(2, ge=1, description="heads a layer; must divide d_model")

    hooks: ClassVar[frozenset[str]] = frozenset({"sequence", "state", "write", "decay"})

    def mixer(self, d_model: int, layer: int) -> nn.Module:
        """Projections, and a norm before the way out."""
        return GatedLinearAttention(d_model, self.params.num_heads)

    def step(self, mixer: nn.Module, x: Tensor, state: Tensor | None, seam: Seam) -> tuple[Tensor, Tensor]:
        """Continue from a state `(batch, heads, head, head)`."""
        return mixer(x, state, seam)


class GatedLinearAttention(nn.Module):
    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads, self.num_channels = num_heads, d_model
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.gate, self.out_gate = (nn.Linear(d_model, d_model) for _ in range(2))
        self.norm = nn.RMSNorm(d_model // num_heads, eps=1e-5)
        self.out = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x: Tensor, state: Tensor | None, seam: Seam) -> tuple[Tensor, Tensor]:
        log_gate = seam.decay(F.logsigmoid(self.gate(x)) / 16)
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        k = k * seam.write(torch.ones_like(k))
        q, k, v, g = (t.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for t in (q, k, v, log_gate))
        if state is None:
            state = x.new_zeros(len(x), self.num_heads, k.shape[-1], v.shape[-1])
        rows = []
        for at in range(0, x.shape[1], PIECE):
            y, state = _piece(*(t[:, :, at : at + PIECE] for t in (q, k, v, g)), state)
            rows.append(y)
        y = self.norm(torch.cat(rows, dim=2)).transpose(1, 2).flatten(2)
        return self.out(y * F.silu(self.out_gate(x))), state


def _piece(q: Tensor, k: Tensor, v: Tensor, g: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Rows `(batch, heads, length, head)` of a few tokens after a state, and the state after them."""
    kept = g.cumsum(dim=2)  # logarithm of what is left at t of a state before the first token
    between = kept.unsqueeze(3) - kept.unsqueeze(2)  # of what is left at t of what was written at s
    causal = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool, device=q.device).tril()
    between = between.masked_fill(~causal[..., None], -torch.inf).exp()
    seen = torch.einsum("bhtd,bhsd,bhtsd->bhts", q, k, between)
    y = seen @ v + (q * kept.exp()) @ state
    left = (kept[:, :, -1:] - kept).exp()
    return y, state * kept[:, :, -1].exp().unsqueeze(-1) + (k * left).transpose(2, 3) @ v
