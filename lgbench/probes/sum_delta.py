"""How far the clock of a layer runs: the sum of its time steps against the length.

    Σ(L) = mean over channels of Σ_{2 ≤ k ≤ L} Δ_k        drift = (Σ(L) / L) / (Σ(L_train) / L_train)

A sum that grows in proportion says nothing; one whose drift leaves 1 says that Δ itself is out of the range
of training. Source: DeciMamba (arXiv:2406.14528), divergence of Σ Δ; the normalised curve is ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lgbench.probe import Probe, Reading, Readings, ScanRecorder

QUANTILES = (0.1, 0.5, 0.9)


class SumDelta(Probe):
    """Reads Δ and A over whole contexts; also the share exp(A Σ) of the first token that survives."""

    statistics = ("largest drift", "largest growth exponent")

    def recorder(self, layers: Sequence[int]) -> _Recorder:
        """Sums."""
        return _Recorder(layers)

    def read(self, subject, recorder: _Recorder) -> None:
        """All lengths."""
        recorder.train_length = subject.train_length
        super().read(subject, recorder)

    def result(self, recorder: _Recorder) -> Readings:
        """Σ, Σ per token, drift and survival by layer and length.

        Drift is against the longest length within the training range, or the shortest that was read. So is
        the growth exponent, log of the ratio of Σ over that of tokens, to the longest length: 1 is linear.
        """
        rows, arrays, drifts, exponents = [], {}, [], []
        lengths = sorted({length for length, _ in recorder.sums})
        base = max([n for n in lengths if n <= recorder.train_length], default=lengths[0])
        for layer in recorder.watched:
            sums = {n: torch.cat(recorder.sums[n, layer]).mean(dim=0) for n in lengths}
            tokens = {n: np.mean(recorder.tokens[n, layer]) for n in lengths}
            rate = {n: float(sums[n].mean()) / max(tokens[n], 1) for n in lengths}
            A = recorder.rates[layer].reshape(len(sums[base]), -1)
            for n in lengths:
                drift = rate[n] / max(rate[base], 1e-30)
                kept = torch.exp(A * sums[n][:, None]).flatten()
                rows += [
                    Reading("sum of delta", float(sums[n].mean()), n, layer),
                    Reading("mean delta", rate[n], n, layer),
                    Reading("drift", drift, n, layer),
                ]
                rows += [
                    Reading("survival of the first token", float(kept.quantile(q)), n, layer, f"quantile {q}")
                    for q in QUANTILES
                ]
                if n > base:
                    drifts.append(drift)
            if lengths[-1] > base:
                octaves = np.log(max(tokens[lengths[-1]], 2) / max(tokens[base], 1))
                exponents.append(1 + np.log(max(rate[lengths[-1]] / max(rate[base], 1e-30), 1e-30)) / octaves)
            arrays[f"sums of layer {layer}"] = np.stack([sums[n].numpy() for n in lengths]).astype(np.float32)
        worst = max(drifts, key=lambda drift: abs(np.log(max(drift, 1e-30))), default=1.0)
        rows.append(Reading("largest drift", worst))
        rows.append(Reading("largest growth exponent", float(max(exponents, default=float("nan")))))
        return Readings(rows, arrays | {"lengths": np.array(lengths)})

    def figure(self, several: Sequence[Readings]):
        """Mean Δ of a token against the length, a line a layer: flat where Σ is linear."""
        from lgbench.report import probe_panels as draw
        from lgbench.report.style import looks

        with looks():
            text = "Mean over channels, tokens from the second on, and items: flat where the sum is linear."
            return draw.by_layer(several, "mean delta", r"$\Sigma\Delta$ / length", [text])


class _Recorder(ScanRecorder):
    def __init__(self, layers: Sequence[int]) -> None:
        super().__init__(layers)
        self.train_length = 0
        self.sums: dict[tuple[int, int], list[Tensor]] = {}
        self.tokens: dict[tuple[int, int], list[float]] = {}
        self.rates: dict[int, Tensor] = {}

    def see(self, layer: int, first: int, *, delta: Tensor, A: Tensor, **_: Tensor) -> None:
        """Add a piece; the first token of a sequence is left out, as published, and masked ones are 0."""
        counted = delta[:, 1:] if first == 0 else delta
        total, tokens = counted.double().sum(dim=1).cpu(), (counted > 0).any(dim=-1).sum(dim=1)
        key = self.length, layer
        if first == 0:
            self.sums.setdefault(key, []).append(torch.zeros_like(total))
            self.tokens.setdefault(key, []).append(0.0)
        self.sums[key][-1] += total
        self.tokens[key][-1] += float(tokens.double().mean())
        self.rates[layer] = A.detach().double().cpu()
