"""How long the modes of the state last: time constants against the training length.

    τ = 1 / (|A_en| · mean over t of Δ_te)     tokens until mode (e, n) of a channel keeps 1/e of what it held

A model that has modes slower than anything in its training has learned them from nothing that it saw whole.
Initial weights of the same seed stand beside the trained ones. Source: our own; the time constants are those
of the diagonal recurrence of Gu and Dao, arXiv:2312.00752.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from lgbench.probe import Probe, Reading, Readings, ScanRecorder

WHEN = ("trained", "initial")


class MemoryHorizon(Probe):
    """Reads Δ and A; time constants of each layer as an array, shares of slow modes as rows."""

    statistics = ("share beyond L_train", "longest time constant")

    def lengths(self, train_length: int) -> tuple[int, ...]:
        """The training length alone: Δ of later tokens is another question, see `sum_delta`."""
        return (train_length,)

    def recorder(self, layers: Sequence[int]) -> _Recorder:
        """Sums of Δ."""
        return _Recorder(layers)

    def read(self, subject, recorder: _Recorder) -> None:
        """The trained model, then the same before training, where it is known."""
        recorder.train_tokens = subject.task.context_tokens(subject.train_length)
        recorder.when = WHEN[0]
        super().read(subject, recorder)
        fresh = subject.untrained()
        if fresh is not None:
            recorder.when = WHEN[1]
            with fresh.watched(recorder):
                super().read(fresh, recorder)

    def result(self, recorder: _Recorder) -> Readings:
        """Shares of modes beyond the training length, longest and median time constants, in tokens."""
        rows, arrays, limit = [], {}, recorder.train_tokens
        whens = dict.fromkeys(when for when, _, _ in recorder.total)
        for length in dict.fromkeys(length for _, length, _ in recorder.total):
            for when in whens:
                by_layer = [recorder.constants(when, length, layer) for layer in recorder.watched]
                for layer, tau in zip(recorder.watched, by_layer, strict=True):
                    place = (length, layer, when)
                    rows += [
                        Reading("share of modes beyond L_train", float((tau > limit).mean()), *place),
                        Reading("median time constant of the layer", float(np.median(tau)), *place),
                    ]
                every = np.concatenate([tau.ravel() for tau in by_layer])
                rows += [
                    Reading("share beyond L_train", float((every > limit).mean()), length, None, when),
                    Reading("longest time constant", float(every.max()), length, None, when),
                    Reading("median time constant", float(np.median(every)), length, None, when),
                ]
                arrays[f"{when} {length}"] = np.stack(by_layer).astype(np.float32)
        return Readings(rows, arrays)

    def figure(self, several: Sequence[Readings]):
        """Time constants of all modes, sorted within each layer: a strip a layer, L_train as a line."""
        from matplotlib.lines import Line2D

        from lgbench.report import probe_panels as draw
        from lgbench.report.style import COLOURS, looks, new_figure

        with looks():
            figure, axes = new_figure(len(several))
            for one, panel in zip(several, axes, strict=True):
                length = one.facts["lengths"][-1]
                for when, colour, shift in zip(WHEN, (COLOURS[0], COLOURS[4]), (-0.17, 0.17), strict=True):
                    values = one.arrays.get(f"{when} {length}", np.empty((0, 1)))
                    for layer, tau in zip(one.layers(), values, strict=False):
                        spread = np.linspace(-0.13, 0.13, tau.size)
                        dots = np.sort(tau, axis=None)
                        panel.plot(layer + shift + spread, dots, ".", color=colour, markersize=1.6)
                panel.axhline(one.facts["train_length"], color="black", linewidth=0.8, linestyle="--")
                panel.set_yscale("log")
                panel.set_xticks(one.layers()[:: max(1, len(one.layers()) // 8)])
                panel.set_xlabel("layer")
                panel.set_title(draw.name_of(one, several), loc="left", fontsize=8.5)
            axes[0].set_ylabel("time constant (tokens)")
            draw.same_limits(axes)
            handles = [
                Line2D([], [], color=COLOURS[0], marker="o", linestyle="", label="trained"),
                Line2D([], [], color=COLOURS[4], marker="o", linestyle="", label="at initialisation"),
                Line2D([], [], color="black", linewidth=0.8, linestyle="--", label="training length"),
            ]
            text = "A dot is a mode (channel, state); within a layer they are sorted."
            draw.finish(figure, axes, several, [text], handles=handles, top_in=0.2)
        return figure


class _Recorder(ScanRecorder):
    def __init__(self, layers: Sequence[int]) -> None:
        super().__init__(layers)
        self.when, self.train_tokens = WHEN[0], 0
        self.total: dict[tuple[str, int, int], Tensor] = {}
        self._count: dict[tuple[str, int, int], int] = {}
        self._rates: dict[tuple[str, int, int], Tensor] = {}

    def see(self, layer: int, first: int, *, delta: Tensor, A: Tensor, **_: Tensor) -> None:
        """Add Δ of all tokens; masked ones are 0 and not counted."""
        key = (self.when, self.length, layer)
        self.total[key] = self.total.get(key, 0) + delta.double().sum(dim=(0, 1)).cpu()
        self._count[key] = self._count.get(key, 0) + int((delta > 0).any(dim=-1).sum())
        self._rates[key] = A.detach().abs().double().cpu()

    def constants(self, when: str, length: int, layer: int) -> np.ndarray:
        """Time constants in tokens, `(channels, d_state)`, of Mamba-2 `(heads, 1)`."""
        key = (when, length, layer)
        rate = self._rates[key].reshape(len(self.total[key]), -1)
        mean = self.total[key] / self._count[key]
        return (1 / (rate * mean[:, None])).numpy()
