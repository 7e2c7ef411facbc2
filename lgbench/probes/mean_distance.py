"""How far back a layer looks: the mean distance of its hidden attention, layer by layer.

    α_j = Δ_j Σ_n C_Ln exp(A_n Σ_{j<k≤L} Δ_k) B_jn        the last row of the attention that a scan amounts to
    distance = Σ_j |α_j| (L - j) / Σ_j |α_j|               tokens, 0 if only the last token matters

Source: Ben-Kish et al., "DeciMamba" (arXiv:2406.14528), Mamba Mean Distance; hidden attention of Ali et al.,
arXiv:2403.01590. Gate, skip and convolution are left out, as there. Mamba-2 has one A a head, so its
attention is Δ_j (C_L·B_j) exp(A Σ Δ_k).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lgbench.intervention import ScanIntervention


class MeanDistance(ScanIntervention):
    """Records the mean distance of each layer, at the last position of each piece, in tokens."""

    def __init__(self) -> None:
        self._sums: dict[int, float] = {}
        self._samples: dict[int, int] = {}

    def record(
        self, layer: int, *, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, x: Tensor, state: Tensor
    ) -> None:
        """Add the distances of this layer."""
        distances = mean_distance(delta, A, B, C).mean(dim=1)
        self._sums[layer] = self._sums.get(layer, 0.0) + distances.sum().item()
        self._samples[layer] = self._samples.get(layer, 0) + len(distances)

    def by_layer(self) -> dict[int, float]:
        """Mean distances in tokens."""
        return {layer: total / self._samples[layer] for layer, total in self._sums.items()}


def mean_distance(delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """Mean distance of the last position, tokens, `(batch, channels)`; 0 for a sequence without weight.

    Args:
        delta: `(batch, length, channels)`; tokens whose Δ is 0 have no weight.
        A: `(channels, d_state)`, of Mamba-2 `(heads,)`; negative.
        B: `(batch, length, d_state)`; likewise `C`.
    """
    weight = (C[:, -1:] * B).unsqueeze(-2)  # (batch, length, 1, d_state)
    if A.ndim == 1:
        A, weight = A.unsqueeze(-1), weight.sum(dim=-1, keepdim=True)
    total = delta.cumsum(dim=1)
    since = total[:, -1:] - total  # Σ Δ after each token: never a product of exponentials
    attention = torch.zeros_like(delta)
    for n in range(A.shape[1]):
        decay = (since * (A[:, n] * math.log2(math.e))).exp2_()  # on a CPU much faster than exp
        attention.addcmul_(decay, weight[..., n])
    attention = attention.mul_(delta).abs_()
    back = torch.arange(delta.shape[1] - 1, -1, -1, device=delta.device, dtype=delta.dtype)
    far = torch.einsum("blc,l->bc", attention, back)
    return far / attention.sum(dim=1).clamp(min=torch.finfo(delta.dtype).tiny)
