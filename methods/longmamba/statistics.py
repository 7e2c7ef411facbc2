"""What thresholds are made of: time steps of contexts of training length."""

from __future__ import annotations

import math

import torch
from lgbench.methods.longmamba.params import LongMambaParams
from torch import Tensor
from torch.nn import functional as F

from lgbench.method import Mode, ScanIntervention


class Statistics(ScanIntervention):
    """Thresholds and survivals of each layer from contexts of training length, whole or in pieces.

    Args:
        length: of the sequences that thresholds are for, tokens.
        profile: tokens of each context.
        params: of the method.
    """

    def __init__(self, length: int, profile: int, params: LongMambaParams) -> None:
        self.length, self.profile, self.params = length, profile, params
        self.pieces: dict[int, list[Tensor]] = {}
        self.decay: dict[int, Tensor] = {}
        self.reading = False

    def begin(self, mode: Mode, length: int | Tensor, num_protected: int) -> None:
        """Queries are no part of the statistics."""
        self.num_protected = num_protected if mode == "score" else 0
        self.reading = mode != "decode"

    def record(self, layer: int, *, delta: Tensor, A: Tensor, **others: Tensor) -> None:
        """Keep the time steps of the context."""
        if self.reading:
            self.pieces.setdefault(layer, []).append(delta[:, : delta.shape[1] - self.num_protected])
            self.decay[layer] = A

    def result(self) -> tuple[Tensor, Tensor]:
        """Thresholds and log survivals `(num_layers, channels)`, over all items."""
        found = [self._layer(layer) for layer in sorted(self.pieces)]
        return torch.stack([theta for theta, _ in found]), torch.stack([tau for _, tau in found])

    def _layer(self, layer: int) -> tuple[Tensor, Tensor]:
        whole = _join(self.pieces[layer], self.profile)
        top = max(1, int(self.params.rho * whole.shape[1]))
        clamped = whole.minimum(whole.topk(top, dim=1).values[:, -1:])
        each = torch.stack([log_survival(item, self.decay[layer]) for item in clamped])
        corners = self.params.protocol == "clean"
        thresholds = torch.stack([threshold(item, self.length, align_corners=corners) for item in clamped])
        if self.params.over == "max":
            return thresholds.amax(dim=0), each.amax(dim=0)
        return thresholds.mean(dim=0), each.logsumexp(dim=0) - math.log(len(each))


def log_survival(delta: Tensor, A: Tensor) -> Tensor:
    """log Π_t mean_n exp(Δ_t A_n) `(channels,)`, of Δ `(length, channels)`.

    Args:
        delta: after softplus.
        A: `(d_inner, d_state)`; of Mamba-2 `(heads,)`, where this is A Σ_t Δ_t.
    """
    if A.ndim == 1:
        return A * delta.sum(dim=0)
    return (torch.logsumexp(delta.unsqueeze(-1) * A, dim=-1) - math.log(A.shape[1])).sum(dim=0)


def threshold(delta: Tensor, length: int, *, align_corners: bool = True) -> Tensor:
    """θ `(channels,)` for sequences of `length` tokens from Δ `(train_length, channels)`.

    The profile of sorted Δ is stretched to `length`; θ is its value where the running sum first exceeds the
    sum over the training length. 0 where it never does, as for lengths up to the training length.

    Args:
        delta: after softplus.
        length: of the sequences.
        align_corners: whether the ends of both profiles fall together; in the release they do not.
    """
    if length <= len(delta):
        return delta.new_zeros(delta.shape[1])
    profile = delta.sort(dim=0, descending=True).values
    stretched = F.interpolate(
        profile.T.unsqueeze(0), size=length, mode="linear", align_corners=align_corners
    )[0].T
    exceeded = stretched.cumsum(dim=0) > delta.sum(dim=0)
    first = (exceeded.int().argmax(dim=0) + 1).clamp(max=length - 1)
    found = stretched.gather(0, first.unsqueeze(0))[0]
    return torch.where(exceeded.any(dim=0), found, 0.0)


def _join(pieces: list[Tensor], length: int) -> Tensor:
    """Δ `(items, length, d_inner)` from pieces of one batch of items after another."""
    batches, read = [], []
    for piece in pieces:
        read.append(piece)
        if sum(p.shape[1] for p in read) == length:
            batches.append(torch.cat(read, dim=1))
            read = []
    assert not read, "a context was not read to its end"
    return torch.cat(batches)
