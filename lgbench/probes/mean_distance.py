"""How far back a layer looks: the mean distance of its hidden attention, layer by layer.

    α_j = Δ_j Σ_n C_Ln exp(A_n Σ_{j<k≤L} Δ_k) B_jn        the last row of the attention that a scan amounts to
    distance = Σ_j |α_j| (L - j) / Σ_j |α_j|               tokens, 0 if only the last token matters

Source: Ben-Kish et al., "DeciMamba" (arXiv:2406.14528), Mamba Mean Distance; hidden attention of Ali et al.,
arXiv:2403.01590. Gate, skip and convolution are left out, as there. Mamba-2 has one A a head, so its
attention is Δ_j (C_L·B_j) exp(A Σ Δ_k).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lgbench.intervention import ScanIntervention
from lgbench.probe import Probe, Reading, Readings
from lgbench.probes._attention import LastRow, attention_row


class MeanDistances(Probe):
    """Reads the last row of the attention, streamed, at each length; mean over channels and items."""

    statistics = ("mean distance", "distance / training length")
    passes = 2

    def recorder(self, layers: Sequence[int]) -> _Recorder:
        """Weighted distances."""
        return _Recorder(layers)

    def read(self, subject, recorder: _Recorder) -> None:
        """All lengths."""
        recorder.train_length = subject.train_length
        super().read(subject, recorder)

    def result(self, recorder: _Recorder) -> Readings:
        """Distances in tokens by layer and length, and against both lengths; also their mean."""
        rows, lengths = [], sorted({length for length, _ in recorder.far})
        table = np.empty((len(lengths), len(recorder.watched)))
        for row, length in enumerate(lengths):
            for column, layer in enumerate(recorder.watched):
                table[row, column] = recorder.distance(length, layer)
            for layer, value in [*zip(recorder.watched, table[row], strict=True), (None, table[row].mean())]:
                rows += [
                    Reading("mean distance", value, length, layer),
                    Reading("distance / length", value / length, length, layer),
                    Reading("distance / training length", value / recorder.train_length, length, layer),
                ]
        return Readings(rows, {"distances": table, "lengths": np.array(lengths)})

    def figure(self, several: Sequence[Readings]):
        """Mean distance over the length, a line a layer."""
        from lgbench.report import probe_panels as draw
        from lgbench.report.style import looks

        with looks():
            text = "How far back the last position looks, mean over channels and items."
            return draw.by_layer(several, "mean distance", "mean distance (tokens)", [text])


class _Recorder(LastRow):
    def __init__(self, layers: Sequence[int]) -> None:
        super().__init__(layers)
        self.train_length = 0
        self.far: dict[tuple[int, int], list[Tensor]] = {}
        self._weight: dict[tuple[int, int], list[Tensor]] = {}

    def start(self, length: int, chosen: slice, passage: int) -> None:
        """A place for these items."""
        super().start(length, chosen, passage)
        if passage == 1:
            for layer in self.watched:
                self.far.setdefault((length, layer), []).append(torch.zeros(()))
                self._weight.setdefault((length, layer), []).append(torch.zeros(()))

    def take(self, layer: int, back: int, row: Tensor, x: Tensor, C_end: Tensor, state: Tensor) -> None:
        """Add the weights of a piece, and the weights times their distances."""
        weights, key = row.abs_(), (self.length, layer)
        distance = torch.arange(back, back - row.shape[1], -1, device=row.device, dtype=row.dtype)
        self.far[key][-1] = self.far[key][-1] + torch.einsum("blc,l->bc", weights, distance).double().cpu()
        self._weight[key][-1] = self._weight[key][-1] + weights.sum(dim=1).double().cpu()

    def distance(self, length: int, layer: int) -> float:
        """Mean distance in tokens, over channels and items."""
        far, weight = torch.cat(self.far[length, layer]), torch.cat(self._weight[length, layer])
        return float((far / weight.clamp(min=torch.finfo(torch.float32).tiny)).mean())


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
    total = delta.cumsum(dim=1)
    since = total[:, -1:] - total  # Σ Δ after each token: never a product of exponentials
    attention = attention_row(delta, A, B, C[:, -1:], since).abs_()
    back = torch.arange(delta.shape[1] - 1, -1, -1, device=delta.device, dtype=delta.dtype)
    far = torch.einsum("blc,l->bc", attention, back)
    return far / attention.sum(dim=1).clamp(min=torch.finfo(delta.dtype).tiny)
