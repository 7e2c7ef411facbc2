"""How large the state grows with the length: norms of its channels, layer by layer.

    ‖h_L,e‖₂ over the state dimension, for each channel e;  std of all entries of h_L

A state that keeps growing beyond the training length leaves what the layers behind it have seen.
Source: the state norm of MambaModulation (arXiv:2509.19633) and the standard deviation of Ruiz and Gu
(arXiv:2507.02782). Each length is read by itself, and only the state of the scan counts, not that of the
convolution.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lgbench.probe import Probe, Reading, Readings, ScanRecorder


class StateNorm(Probe):
    """Reads the state after each context; mean over items."""

    statistics = ("growth of the norm",)

    def recorder(self, layers: Sequence[int]) -> _Recorder:
        """States after the last piece."""
        return _Recorder(layers)

    def read(self, subject, recorder: _Recorder) -> None:
        """All lengths."""
        recorder.train_length = subject.train_length
        super().read(subject, recorder)

    def result(self, recorder: _Recorder) -> Readings:
        """Smallest, mean and largest norm of a channel, and the standard deviation, by layer and length.

        Growth is the largest mean norm beyond the training length over that at the longest length within it
        (the shortest that was read, if none is), of the layer where it is largest.
        """
        rows, arrays, means = [], {}, {}
        lengths = sorted({length for length, _ in recorder.norms})
        for layer in recorder.watched:
            curves = []
            for length in lengths:
                norms = np.concatenate(recorder.norms[length, layer]).mean(axis=0)
                means[length, layer] = float(norms.mean())
                curves.append(norms)
                place = (length, layer)
                rows += [
                    Reading("mean norm", means[length, layer], *place),
                    Reading("smallest norm", float(norms.min()), *place),
                    Reading("largest norm", float(norms.max()), *place),
                    Reading("standard deviation", float(np.mean(recorder.stds[length, layer])), *place),
                ]
            arrays[f"norms of layer {layer}"] = np.stack(curves).astype(np.float32)
        inside = max([n for n in lengths if n <= recorder.train_length], default=lengths[0])
        growth = {
            layer: max(means[n, layer] for n in lengths if n >= inside) / max(means[inside, layer], 1e-30)
            for layer in recorder.watched
        }
        rows += [
            Reading("growth of the norm in the layer", value, None, layer) for layer, value in growth.items()
        ]
        rows.append(Reading("growth of the norm", max(growth.values())))
        return Readings(rows, arrays | {"lengths": np.array(lengths)})

    def figure(self, several: Sequence[Readings]):
        """Mean norm over the length, a line a layer."""
        from lgbench.report import probe_panels as draw
        from lgbench.report.style import looks

        with looks():
            text = "Norm over the state dimension, mean over channels and items. Grey: lengths of training."
            return draw.by_layer(several, "mean norm", "norm of the state of a channel", [text])


class _Recorder(ScanRecorder):
    def __init__(self, layers: Sequence[int]) -> None:
        super().__init__(layers)
        self.train_length = 0
        self.norms: dict[tuple[int, int], list[np.ndarray]] = {}
        self.stds: dict[tuple[int, int], list[float]] = {}

    def start(self, length: int, chosen: slice, passage: int) -> None:
        """A place for these items."""
        super().start(length, chosen, passage)
        for layer in self.watched:
            self.norms.setdefault((length, layer), []).append(np.empty(0))
            self.stds.setdefault((length, layer), []).append(0.0)

    def see(self, layer: int, first: int, *, state: Tensor, **_: Tensor) -> None:
        """The latest piece of these items counts. Mamba-2's channels are all of its heads'."""
        channels = state.float().flatten(1, -2)
        self.norms[self.length, layer][-1] = torch.linalg.vector_norm(channels, dim=-1).cpu().numpy()
        self.stds[self.length, layer][-1] = float(channels.flatten(1).std(dim=1).mean())
