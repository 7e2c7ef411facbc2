"""Encoder-decoder transformer: the length-robust baseline of the image reconstruction paper.

The encoder reads the context; the decoder lets the queries see one another (unmasked) and the encoder's
output. Layers in `lgbench.models.transformer`. Source: Rathjens et al. and their public code.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor, nn

from lgbench.backbone import Backbone, Layout
from lgbench.intervention import Mode, ScanIntervention
from lgbench.models.transformer import DecoderBlock, DropPath, EncoderBlock


class EncoderDecoder(Backbone):
    """Transformer whose blocks are split half and half between encoder and decoder.

    Raises:
        ValueError: num_layers is odd, or the heads do not divide d_model.
    """

    class Params(Backbone.Params):
        """Sizes."""

        num_heads: int = Field(8, ge=1, description="attention heads; must divide d_model")
        drop_path: float = Field(
            0.05, ge=0, lt=1, description="probability that a training sample skips a residual branch"
        )

    layout: ClassVar[Layout] = "encoder_decoder"
    layers_multiple_of: ClassVar[int] = 2
    hooks: ClassVar[frozenset[str]] = frozenset()
    capturable: ClassVar[bool] = True

    def build(self, d_model: int, num_layers: int) -> None:
        """Make the blocks."""
        num_heads = self.params.num_heads
        if num_layers % 2:
            raise ValueError(f"num_layers must be even (half encoder, half decoder), got {num_layers}")
        if d_model % num_heads:
            raise ValueError(f"num_heads={num_heads} does not divide d_model={d_model}")
        self.drop_path = DropPath(self.params.drop_path)
        self.encoder = nn.ModuleList(
            EncoderBlock(d_model, num_heads, self.drop_path) for _ in range(num_layers // 2)
        )
        self.decoder = nn.ModuleList(
            DecoderBlock(d_model, num_heads, self.drop_path) for _ in range(num_layers // 2)
        )

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
        """Hidden states `(batch, num_queries, d_model)`; masked tokens are seen by nobody.

        Queries see one another, so answers with different numbers of queries cannot share a pass.
        """
        for block in self.encoder:
            context = block(context, context_mask)
        for block in self.decoder:
            queries = block(queries, context, query_mask, context_mask)
        return queries

    def backend_name(self, tokens: Tensor, hooks: frozenset[str]) -> str:
        """What computes the attention; stored in rows."""
        return "sdpa"
