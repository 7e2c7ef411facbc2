"""Decoder-only transformer: reads a sequence in pieces into a cache of keys and values; four position codes.

Source: Touvron et al., arXiv:2302.13971, and the papers on position codes in `lgbench.models.decoder`, where
the layers are.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from lgbench.backbone import Advance, Backbone, begin_sequence, real_first
from lgbench.intervention import Mode, ScanIntervention, active_hooks
from lgbench.models.decoder import DecoderBlock, Position, View, account, default_heads, wide
from lgbench.models.kv_cache import LayerCache
from lgbench.models.positions import alibi_slopes, rope_angles, sinusoid


class Decoder(Backbone):
    """Causal transformer: its state is the whole past.

    Raises:
        ValueError: the sizes do not fit together.
    """

    class Params(Backbone.Params):
        """Sizes."""

        num_heads: int | None = Field(
            None, ge=1, description="attention heads; one for every 64 of d_model if not set, or fewer"
        )
        position: Position = Field("rope", description="how the model is told where a token stands")

    hooks: ClassVar[frozenset[str]] = frozenset({"sequence", "state"})
    capturable: ClassVar[bool] = True

    def build(self, d_model: int, num_layers: int) -> None:
        """Make the blocks."""
        num_heads = self.params.num_heads or default_heads(d_model)
        if d_model % num_heads or d_model // num_heads % 2:
            raise ValueError(
                f"{num_heads} heads do not split d_model {d_model} into equal parts of an even width"
            )
        self.head, self.position = d_model // num_heads, self.params.position
        self.blocks = nn.ModuleList(DecoderBlock(d_model, num_heads, num_layers) for _ in range(num_layers))
        self.norm = nn.RMSNorm(d_model, eps=1e-5)
        slopes = alibi_slopes(num_heads) if self.position == "alibi" else None
        self.register_buffer("slopes", slopes, persistent=False)

    def advance(
        self,
        tokens: Tensor,
        *,
        mode: Mode,
        state: list[LayerCache] | None = None,
        mask: Tensor | None = None,
        read: int | None = None,
        intervention: ScanIntervention,
    ) -> Advance:
        """Process a piece of a sequence; arguments as in `Backbone.advance`.

        Raises:
            ValueError: the method changes something that a transformer does not have.
        """
        return self._advance(tokens, mode, state, mask, read, intervention, keep=True)

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
        """Hidden states of the queries `(batch, num_queries, d_model)` after the context, in one piece.

        Queries are causal, so masked ones (at the end) need no care.
        """
        tokens = torch.cat([context, queries], dim=1)
        mask = None if context_mask is None else F.pad(context_mask, (0, queries.shape[1]), value=True)
        return self._advance(tokens, mode, None, mask, queries.shape[1], intervention, keep=False).hidden

    def backend_name(self, tokens: Tensor, hooks: frozenset[str]) -> str:
        """What computes the attention; stored in rows."""
        return "sdpa"

    def _advance(
        self,
        tokens: Tensor,
        mode: Mode,
        state: list[LayerCache] | None,
        mask: Tensor | None,
        read: int | None,
        intervention: ScanIntervention,
        keep: bool,
    ) -> Advance:
        hooks = active_hooks(intervention, mode)
        if hooks - self.hooks:
            raise ValueError(f"a decoder has no {', '.join(sorted(hooks - self.hooks))} to change")
        if state is None:
            tokens, mask = begin_sequence(tokens, mask, intervention, mode)
        elif "state" in hooks:
            state = [intervention.state(layer, cache) for layer, cache in enumerate(state)]
        batch, length, d_model = tokens.shape
        place = None
        if mask is not None:
            place = real_first(mask.expand(batch, -1))
            tokens = torch.empty_like(tokens).scatter(1, wide(place, d_model), tokens)
        view = self._view(state[0] if state else None, length, tokens.device)
        if self.position == "sinusoidal":
            tokens = math.sqrt(d_model) * tokens + sinusoid(view.positions, d_model).to(tokens.dtype)
        caches = []
        for layer, block in enumerate(self.blocks):
            tokens, past = block(tokens, state[layer].past if state else None, view, keep)
            caches.append(past)
        self.processed = (length,) * len(self.blocks)
        if place is not None:
            tokens = tokens.gather(1, wide(place, d_model))
        positions = torch.arange(length, device=tokens.device).expand(batch, -1)
        first = 0 if read is None else length - read
        real, count = account(state[0] if state else None, mask, batch, length, tokens.device)
        return Advance(
            self.norm(tokens[:, first:]),
            positions[:, first:],
            [LayerCache(past, real, count) for past in caches] if keep else [],
        )

    def _view(self, before: LayerCache | None, length: int, device: torch.device) -> View:
        """What all layers need to know about this piece and what came before it."""
        count = before.count if before else 0
        positions = count + torch.arange(length, device=device)[None]
        real = before.real if before else None
        key_positions = angles = None
        if self.slopes is not None and real is None:
            key_positions = torch.arange(count + length, device=device)[None]
        elif self.slopes is not None:
            key_positions = torch.cat([real.cumsum(dim=1) - 1, positions], dim=1)
        if self.position == "rope":
            angles = tuple(a[:, None] for a in rope_angles(positions, self.head))
        return View(positions, key_positions, real, angles, self.slopes)
