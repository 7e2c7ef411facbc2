"""Input and output layers for image reconstruction: patches with positions in, patches at asked positions
out.

    image token  = [joiner(conv(patch)); x/100; y/100]       query = [learned vector; x/100; y/100]
    sequence     = [image tokens, SEP, queries]               output = 2 sigmoid(W h + b) - 1
    filler token = a learned vector, without a place          (ours; only where the task has filler)

For an encoder-decoder there is neither joiner nor separator, and a fixed sinusoid of the position is added
instead. Source: Rathjens et al., §3 and their public code (the query vector, the two affine maps and the
sigmoid follow the code where the paper differs).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lgbench.task import Layout, Tensors

COORDINATE_SCALE = 100.0
"""Pixels; positions relative to the image's middle are divided by it."""


class PatchInterface(nn.Module):
    """See the module's docstring.

    Args:
        d_model: width of the backbone.
        patch: side of a patch in pixels.
        layout: "causal" has joiner and separator, "encoder_decoder" neither.
        position: "concat" reserves the last two components for the coordinates, "sinusoid" adds frequencies.
        has_filler: whether contexts have tokens that show nothing.
    """

    def __init__(
        self, d_model: int, patch: int, layout: Layout, position: str, has_filler: bool = False
    ) -> None:
        super().__init__()
        self.patch, self.position = patch, position
        width = d_model - 2 if position == "concat" else d_model
        self.conv = nn.Conv2d(1, d_model, patch)
        self.joiner = nn.Linear(d_model, width) if layout == "causal" else nn.Identity()
        self.query = nn.Parameter(0.02 * torch.randn(width))
        self.separator = nn.Parameter(0.02 * torch.randn(d_model)) if layout == "causal" else None
        self.head = nn.Linear(d_model, patch**2)
        self.filler = nn.Parameter(0.02 * torch.randn(d_model)) if has_filler else None
        self.register_buffer(
            "frequencies", 10000.0 ** -(torch.arange(d_model // 4) / (d_model // 4)), persistent=False
        )

    def context(self, context: Tensors) -> Tensor:
        """Embed `patches` `(batch, length, patch²)` and `places` `(batch, length, 2)` in pixels.

        Where `filler`, bool `(batch, length)`, is True, patch and place are not read.
        """
        kernel = self.conv.weight.flatten(
            1
        )  # a patch is one position of the convolution: a plain matrix product
        embedded = nn.functional.linear(context["patches"], kernel, self.conv.bias)
        tokens = self._place(self.joiner(embedded), context["places"])
        if self.filler is None:
            return tokens
        return torch.where(context["filler"].unsqueeze(-1), self.filler, tokens)

    def queries(self, queries: Tensors) -> Tensor:
        """Embed `places` `(batch, num_queries, 2)`, after the separator in a causal layout."""
        places = queries["places"]
        tokens = self._place(self.query.expand(*places.shape[:2], -1), places)
        if self.separator is None:
            return tokens
        return torch.cat([self.separator.expand(places.shape[0], 1, -1), tokens], dim=1)

    def read(self, hidden: Tensor) -> Tensor:
        """Pixels `(batch, num_queries, patch²)` in (-1, 1)."""
        return torch.tanh(self.head(hidden) / 2)  # which is 2 sigmoid - 1

    def _place(self, tokens: Tensor, places: Tensor) -> Tensor:
        if self.position == "concat":
            return torch.cat([tokens, places / COORDINATE_SCALE], dim=-1)
        angle = places.unsqueeze(-1) * self.frequencies
        wave = torch.stack([angle.sin(), angle.cos()], dim=-2)  # (batch, length, xy, sin/cos, frequency)
        return tokens + wave.flatten(-3)
