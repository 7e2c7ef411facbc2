"""The attention that a selective scan amounts to, from what its `record` hook shows.

    α_ij = Δ_j Σ_n C_in exp(A_n (S_i - S_j)) B_jn        S_i = Σ_{k ≤ i} Δ_k, j ≤ i
    y_i  = Σ_j α_ij x_j + D x_i

Only differences of sums are exponentiated, never products of exponentials. Gate, skip and convolution are
left out. Mamba-2 has one A a head. Source: Ali et al., arXiv:2403.01590.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lgbench.probe import ScanRecorder


def attention_row(delta: Tensor, A: Tensor, B: Tensor, C_end: Tensor, since: Tensor) -> Tensor:
    """What the last position of a sequence takes of each token of a piece, `(batch, length, channels)`.

    Args:
        delta: `(batch, length, channels)`; tokens whose Δ is 0 have no weight.
        A: `(channels, d_state)`, of Mamba-2 `(heads,)`; negative.
        B: `(batch, length, d_state)`.
        C_end: `(batch, 1, d_state)`, of the last position.
        since: Σ Δ after each token up to the last position, `(batch, length, channels)`.
    """
    weight = (C_end * B).unsqueeze(-2)  # (batch, length, 1, d_state)
    if A.ndim == 1:
        A, weight = A.unsqueeze(-1), weight.sum(dim=-1, keepdim=True)
    attention = torch.zeros_like(delta)
    for n in range(A.shape[1]):
        decay = (since * (A[:, n] * math.log2(math.e))).exp2_()  # on a CPU much faster than exp
        attention.addcmul_(decay, weight[..., n])
    return attention.mul_(delta)


def attention_matrix(delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """The whole attention of one sequence, `(channels, length, length)`, zeros above the diagonal.

    Args:
        delta: `(length, channels)`.
        A: as above.
        B: `(length, d_state)`; so is `C`.
    """
    length = len(delta)
    total = delta.double().cumsum(dim=0).T
    since = (total[:, :, None] - total[:, None, :]).clamp(min=0).to(delta.dtype)
    A = A.reshape(delta.shape[1], -1)
    found = torch.zeros_like(since)
    weights = (C[:, None] * B).unbind(-1) if A.shape[1] == C.shape[1] else [C @ B.T]
    for n, weight in enumerate(weights):
        found += torch.exp(since * A[:, n, None, None]) * weight
    seen = torch.ones(length, length, dtype=torch.bool, device=delta.device).tril()
    return found.mul_(delta.T[:, None, :]).mul_(seen)


class LastRow(ScanRecorder):
    """Gives the last row of the attention piece by piece, to `take`; each context is read twice.

    The first pass finds C and the sums of Δ at the end, the second uses them, so that memory does not grow
    with the length.
    """

    def start(self, length: int, chosen: slice, passage: int) -> None:
        """Keep the ends of the first pass for the second."""
        super().start(length, chosen, passage)
        if passage == 0:
            self._ends: dict[int, tuple[Tensor, Tensor, int]] = {}
        self._sums: dict[int, Tensor] = {}

    def see(
        self,
        layer: int,
        first: int,
        *,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        x: Tensor,
        **rest: Tensor,
    ) -> None:
        """Add up Δ; in the second pass hand over the weights."""
        before = self._sums.get(layer, 0.0)
        sums = before + delta.double().cumsum(dim=1)
        self._sums[layer] = sums[:, -1:]
        if self.passage == 0:
            self._ends[layer] = (C[:, -1:], sums[:, -1:], first + delta.shape[1])
            return
        C_end, total, stop = self._ends[layer]
        row = attention_row(delta, A, B, C_end, (total - sums).to(delta.dtype))
        self.take(layer, stop - 1 - first, row, x, C_end, rest["state"])

    def take(self, layer: int, back: int, row: Tensor, x: Tensor, C_end: Tensor, state: Tensor) -> None:
        """Use weights `(batch, length, channels)` of a piece.

        Args:
            layer: from 0.
            back: tokens from the piece's first to the last position of the sequence.
            row: signed weights.
            x: input of the scan.
            C_end: of the last position.
            state: after the piece.
        """
        raise NotImplementedError
