"""Whether a model knows how long its context is: ‖Δ_t‖ of the first tokens, for several total lengths.

    ‖Δ_t‖₂ over the channels of a block, t = 1 … 128, one curve a total length, the same tokens in each

Of a causal model the curves coincide; where a method tells the length they may separate. A token that the
method puts in front is token 0. Source: Rathjens et al., Fig. 6 right (N1 to N3 of our reading).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from lgbench.probe import Probe, Reading, Readings, ScanRecorder


class DeltaNorm(Probe):
    """Reads Δ of the first tokens; mean over items."""

    class Params(Probe.Params):
        first: int = Field(128, ge=2, le=4096, description="tokens of each curve")

    statistics = ("spread between lengths", "slope of the first block", "spread in standard errors")
    num_items = 32

    def recorder(self, layers: Sequence[int]) -> _Recorder:
        """Norms of the first tokens."""
        return _Recorder(layers, self.params.first)

    def lengths(self, train_length: int) -> tuple[int, ...]:
        """From the tokens of a curve, or half the training length, up to four times the training length."""
        least = max(self.params.first, train_length // 2)
        return tuple(least * 2**k for k in range(4))

    def read(self, subject, recorder: _Recorder) -> None:
        """All lengths."""
        recorder.added = subject.tokens_in_front()
        super().read(subject, recorder)

    def result(self, recorder: _Recorder) -> Readings:
        """Spread: the largest relative difference between the mean curves of two lengths, by layer.

        In standard errors: the difference of the lengths over the standard error, both means over tokens, of
        the deeper block (from the second on) where it is largest. Unevenness and slope are of the first
        block's mean curve without a token in front: standard deviation, and fitted rise from the first to
        the last token, over the mean.
        """
        rows, arrays = [], {}
        lengths = sorted({length for length, _ in recorder.norms})
        spreads, separate = {}, [float("nan")]
        for layer in recorder.watched:
            curves, errors = [], []
            for length in lengths:
                norms = torch.cat(recorder.norms[length, layer]).numpy()
                curves.append(norms.mean(axis=0))
                errors.append(norms.std(axis=0) / len(norms) ** 0.5)
                rows.append(Reading("mean norm of Δ", float(curves[-1].mean()), length, layer))
            shortest = min(map(len, curves))
            table = np.stack([curve[:shortest] for curve in curves])
            arrays[f"norms of layer {layer}"] = table.astype(np.float32)
            arrays[f"standard errors of layer {layer}"] = np.stack([e[:shortest] for e in errors]).astype(
                "f4"
            )
            apart, error = np.ptp(table, axis=0), np.mean([e[:shortest] for e in errors])
            spreads[layer] = float((apart / table.mean(axis=0)).max())
            if layer > 0 and error > 0:
                separate.append(float(apart.mean() / error))
            rows.append(Reading("spread in the layer", spreads[layer], None, layer))
        first = arrays[f"norms of layer {recorder.watched[0]}"][0][recorder.added :]
        rows.append(Reading("tokens in front", recorder.added))
        rows.append(Reading("spread between lengths", max(spreads.values())))
        rows.append(Reading("spread in standard errors", float(np.fmax.reduce(separate))))
        rows.append(Reading("slope of the first block", _slope(first)))
        rows.append(Reading("unevenness of the first block", float(first.std() / first.mean())))
        return Readings(rows, arrays | {"lengths": np.array(lengths)})

    def figure(self, several: Sequence[Readings]):
        """A panel for each of three layers and each model, a line a total length."""
        from matplotlib.lines import Line2D

        from lgbench.report import probe_panels as draw
        from lgbench.report.style import line_style, looks, new_figure

        layers = draw.columns_of(several[0].layers(), 3)
        with looks():
            figure, axes = new_figure(len(layers) * len(several))
            for k, panel in enumerate(axes):
                one, layer = several[k // len(layers)], layers[k % len(layers)]
                for index, curve in enumerate(one.arrays[f"norms of layer {layer}"]):
                    look = line_style(index) | {"marker": "", "linewidth": 2.6 - 0.6 * index}
                    start = 1 - int(one.value("tokens in front"))
                    panel.plot(np.arange(start, start + len(curve)), curve, **look)
                panel.set_title(f"{draw.name_of(one, several)}, layer {layer}", loc="left", fontsize=8.5)
                panel.set_xlabel("token")
                panel.set_ylim(bottom=0)
            axes[0].set_ylabel(r"$\|\Delta_t\|_2$")
            handles = [
                Line2D([], [], label=f"{n:,} tokens in all", **(line_style(k) | {"marker": ""}))
                for k, n in enumerate(several[0].arrays["lengths"])
            ]
            draw.finish(figure, axes, several, [], handles=handles, gap_in=0.45, top_in=0.2)
        return figure


def _slope(curve: np.ndarray) -> float:
    """Rise of the fitted line over the whole curve, relative to its mean."""
    return float(np.polyfit(np.linspace(0, 1, len(curve)), curve, 1)[0] / curve.mean())


class _Recorder(ScanRecorder):
    def __init__(self, layers: Sequence[int], first: int) -> None:
        super().__init__(layers)
        self._first, self.added = first, 0
        self.norms: dict[tuple[int, int], list[Tensor]] = {}

    def see(self, layer: int, first: int, *, delta: Tensor, **_: Tensor) -> None:
        """Take those of the first tokens, and of what stands in front."""
        wanted = self._first + self.added - first
        if wanted <= 0:
            return
        norms = torch.linalg.vector_norm(delta[:, :wanted].float(), dim=-1).cpu()
        pieces = self.norms.setdefault((self.length, layer), [])
        if first == 0:
            pieces.append(norms)
        else:
            pieces[-1] = torch.cat([pieces[-1], norms], dim=1)
