"""How slowly each mode of the state decays: the distribution of its eigenvalues, static and in effect.

    static       exp(-|A_en|), as papers draw it
    effective    exp(Δ_te A_en), over channels, states and tokens

The matrix is diagonal, so these are the eigenvalues. Counts are kept over log10 of the rate Δ |A|, so that
any length streams. Source: MambaModulation (arXiv:2509.19633), spectra of A; the effective one is ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lgbench.probe import Probe, Reading, Readings, ScanRecorder

LOW, HIGH, BINS = -8.0, 3.0, 440
"""Of log10 rates; what is outside counts in the first or last bin."""
QUANTILES = (0.01, 0.1, 0.5, 0.9, 0.99)
SLOW = 1e-3
"""An eigenvalue above 1 - this is slow."""


class Spectrum(Probe):
    """Reads Δ and A; a histogram a layer and length as an array, quantiles as rows."""

    statistics = ("share of slow eigenvalues", "median static eigenvalue")

    def lengths(self, train_length: int) -> tuple[int, ...]:
        """The training length and 8 times as much."""
        return (train_length, 8 * train_length)

    def recorder(self, layers: Sequence[int]) -> _Recorder:
        """Histograms."""
        return _Recorder(layers)

    def result(self, recorder: _Recorder) -> Readings:
        """Quantiles of both by layer; the share of effective eigenvalues above 1 - 0.001."""
        rows, arrays = [], {"log10 rates": _middles()}
        for layer in recorder.watched:
            static = torch.exp(-recorder.rates[layer]).flatten()
            rows += [
                Reading("static eigenvalue", float(static.quantile(q)), None, layer, f"quantile {q}")
                for q in QUANTILES
            ]
        every = torch.cat([torch.exp(-recorder.rates[layer]).flatten() for layer in recorder.watched])
        rows.append(Reading("median static eigenvalue", float(every.median())))
        for length in sorted({length for length, _ in recorder.counts}):
            total = np.zeros(BINS)
            for layer in recorder.watched:
                counts = recorder.counts[length, layer].numpy()
                total += counts / counts.sum()
                arrays[f"counts {length} {layer}"] = (counts / counts.sum()).astype(np.float32)
                rows += [
                    Reading("effective eigenvalue", _quantile(counts, q), length, layer, f"quantile {q}")
                    for q in QUANTILES
                ]
                rows.append(Reading("share of slow eigenvalues in the layer", _slow(counts), length, layer))
            rows.append(Reading("share of slow eigenvalues", _slow(total), length))
        return Readings(rows, arrays)

    def figure(self, several: Sequence[Readings]):
        """Densities of 1 / (Δ |A|) at the longest length, a panel a model, a line a layer."""
        from lgbench.report import probe_panels as draw
        from lgbench.report.style import looks, new_figure

        with looks():
            figure, axes = new_figure(len(several))
            for one, panel in zip(several, axes, strict=True):
                length, layers = one.facts["lengths"][-1], one.layers()
                for layer, colour in zip(layers, draw.shades(len(layers)), strict=True):
                    density = one.arrays[f"counts {length} {layer}"].reshape(-1, 8).sum(axis=1)
                    at = 10.0 ** -one.arrays["log10 rates"].reshape(-1, 8).mean(axis=1)
                    inside = (at > 1e-2) & (at < 1e7)
                    panel.plot(at[inside], density[inside] / (8 * (HIGH - LOW) / BINS), color=colour)
                panel.axvline(one.facts["train_length"], color="black", linewidth=0.8, linestyle="--")
                panel.set_xscale("log")
                panel.set_xlim(1e-2, 1e7)
                panel.set_xlabel(r"time constant $1/(\Delta|A|)$ (tokens)")
                panel.set_title(f"{draw.name_of(one, several)}, {length:,} tokens", loc="left", fontsize=8.5)
            axes[0].set_ylabel("density, per factor of 10")
            draw.same_limits(axes)
            text = "Over channels, states and tokens. Dashed: the training length."
            draw.finish(figure, axes, several, [text], handles=draw.layer_handles(several), top_in=0.2)
        return figure


def _middles() -> np.ndarray:
    edges = np.linspace(LOW, HIGH, BINS + 1)
    return (edges[1:] + edges[:-1]) / 2


def _quantile(counts: np.ndarray, q: float) -> float:
    """Of the eigenvalues exp(-rate): a large rate is a small eigenvalue."""
    upto = counts.cumsum() / counts.sum()
    return float(np.exp(-(10.0 ** _middles()[int(np.searchsorted(upto, 1 - q).clip(0, BINS - 1))])))


def _slow(counts: np.ndarray) -> float:
    return float(counts[_middles() < np.log10(-np.log1p(-SLOW))].sum() / counts.sum())


class _Recorder(ScanRecorder):
    def __init__(self, layers: Sequence[int]) -> None:
        super().__init__(layers)
        self.counts: dict[tuple[int, int], Tensor] = {}
        self.rates: dict[int, Tensor] = {}

    def see(self, layer: int, first: int, *, delta: Tensor, A: Tensor, **_: Tensor) -> None:
        """Count log10(Δ |A|) of every token that is there, one state at a time."""
        rates = A.detach().abs().float().reshape(delta.shape[-1], -1)
        self.rates[layer] = rates.cpu()
        there = (delta > 0).any(dim=-1)
        steps = delta[there].float().clamp(min=1e-30).log10()
        counts = torch.zeros(BINS, dtype=torch.float64)
        for rate in rates.log10().unbind(dim=-1):
            values = (steps + rate).clamp(LOW, HIGH)
            counts += torch.histc(values, BINS, LOW, HIGH).double().cpu()
        key = (self.length, layer)
        self.counts[key] = self.counts.get(key, 0) + counts
