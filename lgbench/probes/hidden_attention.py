"""Which token a layer looks at: the attention that its scan amounts to, whole at small lengths.

    α_ij = Δ_j Σ_n C_in exp(A_n Σ_{j<k≤i} Δ_k) B_jn        y_i = Σ_j α_ij x_j + D x_i

Up to `full_up_to` tokens the whole matrix is kept, beyond it the last row alone, read in pieces. As a check
the last row is applied to the scan's input and compared with C_L h_L from the scan's own state.
Source: Ali et al., arXiv:2403.01590; DeciMamba (arXiv:2406.14528), figures of |α| averaged over channels.
Here the absolute value is taken in each channel, before the mean.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from lgbench.probe import Probe, Reading, Readings
from lgbench.probes._attention import LastRow, attention_matrix


class HiddenAttention(Probe):
    """Mean |α| over channels and items: matrices and last rows as arrays, shares of distance as rows."""

    class Params(Probe.Params):
        full_up_to: int = Field(256, ge=1, le=4096, description="longest context whose whole matrix is kept")
        bins: int = Field(512, ge=8, le=8192, description="points of a stored last row, at most")

    statistics = ("weight beyond L_train", "error of the last row")
    passes = 2
    num_items = 4

    def recorder(self, layers: Sequence[int]) -> _Recorder:
        """Sums of |α|."""
        return _Recorder(layers, self.params.full_up_to)

    def read(self, subject, recorder: _Recorder) -> None:
        """All lengths."""
        recorder.train_tokens = subject.task.context_tokens(subject.train_length)
        super().read(subject, recorder)

    def result(self, recorder: _Recorder) -> Readings:
        """By layer and length: share of the last row's weight on its last 16 tokens and beyond L_train."""
        rows, arrays = [], {}
        lengths = sorted({length for length, _ in recorder.last})
        for length in lengths:
            beyond = []
            for layer in recorder.watched:
                row = torch.cat(recorder.last[length, layer]).numpy()
                weight, place = max(row.sum(), 1e-30), (length, layer)
                beyond.append(row[: max(0, len(row) - recorder.train_tokens)].sum() / weight)
                rows += [
                    Reading("weight on the last 16 tokens", float(row[-16:].sum() / weight), *place),
                    Reading("weight beyond L_train in the layer", float(beyond[-1]), *place),
                    Reading("error of the last row in the layer", recorder.error[length, layer], *place),
                ]
                arrays[f"last row {length} {layer}"] = _binned(row / weight, self.params.bins)
                if (length, layer) in recorder.whole:
                    arrays[f"matrix {length} {layer}"] = recorder.whole[length, layer].numpy()
            worst = max(recorder.error[length, layer] for layer in recorder.watched)
            rows += [
                Reading("weight beyond L_train", float(np.mean(beyond)), length),
                Reading("error of the last row", worst, length),
            ]
        return Readings(rows, arrays)

    def figure(self, several: Sequence[Readings]):
        """Matrices of four layers of the first model, logarithmic; without any, its last rows by distance."""
        from matplotlib.colors import LogNorm

        from lgbench.report import probe_panels as draw
        from lgbench.report.style import looks, new_figure

        one = several[0]
        kept = [name.split()[1:] for name in one.arrays if name.startswith("matrix")]
        length = max((int(n) for n, _ in kept), default=0)
        if not length:
            with looks():
                return draw.last_rows(one)
        layers = draw.columns_of(sorted({int(layer) for n, layer in kept if int(n) == length}), 4)
        with looks():
            figure, axes = new_figure(len(layers))
            for panel, layer in zip(axes, layers, strict=True):
                matrix = one.arrays[f"matrix {length} {layer}"]
                shown = np.where(np.tri(len(matrix)) > 0, np.maximum(matrix / matrix.max(), 1e-4), np.nan)
                image = panel.imshow(shown, cmap="magma", norm=LogNorm(1e-4, 1), interpolation="nearest")
                panel.set_title(f"layer {layer}", loc="left", fontsize=8.5)
                panel.set_xlabel("token read")
                panel.tick_params(labelleft=panel is axes[0])
            axes[0].set_ylabel("position that reads")
            text = f"{draw.name_of(one, several)}, {length:,} tokens: mean |α| over channels and items."
            draw.finish(
                figure, axes, [one], [text], columns=len(axes), height_in=1.35, right_in=0.75, top_in=0.25
            )
            draw.colour_bar(figure, axes[-1], image, "share of the largest")
        return figure


def _binned(values: np.ndarray, most: int) -> np.ndarray:
    """Sums over equal stretches, so many at most; what does not fill the first one stands there alone."""
    size = -(-len(values) // most)
    padded = np.concatenate([np.zeros(-len(values) % size), values])
    return padded.reshape(-1, size).sum(axis=1).astype(np.float32)


class _Recorder(LastRow):
    def __init__(self, layers: Sequence[int], full_up_to: int) -> None:
        super().__init__(layers)
        self._full_up_to, self.train_tokens = full_up_to, 0
        self.last: dict[tuple[int, int], list[Tensor]] = {}
        self.whole: dict[tuple[int, int], Tensor] = {}
        self.error: dict[tuple[int, int], float] = {}

    def start(self, length: int, chosen: slice, passage: int) -> None:
        """Rows of later items are added to those of the first ones."""
        super().start(length, chosen, passage)
        self._made: dict[int, Tensor] = {}
        self._at = dict.fromkeys(self.watched, 0)

    def see(self, layer: int, first: int, **tensors: Tensor) -> None:
        """In the second pass also the matrix, if the piece is the whole of a short context."""
        super().see(layer, first, **tensors)
        delta, key = tensors["delta"], (self.length, layer)
        if self.passage == 1 and first == 0 and self._ends[layer][2] == delta.shape[1] <= self._full_up_to:
            for item, steps in enumerate(delta):
                found = attention_matrix(steps, tensors["A"], tensors["B"][item], tensors["C"][item])
                self.whole[key] = self.whole.get(key, 0) + found.abs().mean(dim=0).cpu()

    def take(self, layer: int, back: int, row: Tensor, x: Tensor, C_end: Tensor, state: Tensor) -> None:
        """Add |α|, and what the row makes of the input; at the end compare it with the scan's own."""
        key, pieces = (self.length, layer), self.last.setdefault((self.length, layer), [])
        weights, at = row.abs().mean(dim=-1).sum(dim=0).double().cpu(), self._at[layer]
        self._at[layer] += 1
        if at < len(pieces):
            pieces[at] += weights
        else:
            pieces.append(weights)
        wide = row.repeat_interleave(x.shape[-1] // row.shape[-1], dim=-1).double()
        self._made[layer] = self._made.get(layer, 0) + (wide * x.double()).sum(dim=1)
        if back < row.shape[1]:
            own = (state.flatten(1, -2).double() * C_end.double()).sum(dim=-1)
            error = float((self._made[layer] - own).abs().max() / own.abs().max().clamp(min=1e-30))
            self.error[key] = max(self.error.get(key, 0.0), error)
