"""Which tokens a layer lets in: Δ as a map of channels and tokens, and the rank of the needle.

    q_t       ‖Δ_t‖₂ over channels
    rank      share of all tokens that have a larger q than a token of the needle, mean over its tokens
    recall@k  share of the needle's tokens among the k of largest q

Where a needle falls out of the k largest, a method that keeps these tokens (DeciMamba) loses it.
Source: DeciMamba (arXiv:2406.14528), maps of Δ with the passkey marked; rank and recall are our summary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from lgbench.probe import Probe, Reading, Readings, ScanRecorder
from lgbench.probes._needle import needle_ranks


class DeltaMap(Probe):
    """Reads Δ over whole contexts; the map is that of the first item, in at most `bins` stretches."""

    class Params(Probe.Params):
        bins: int = Field(256, ge=8, le=4096, description="stretches of tokens in a stored map, at most")
        channels: int = Field(256, ge=1, le=4096, description="channels in a stored map, at most")

    statistics = ("best rank of the needle", "best recall at L_train")

    def recorder(self, layers: Sequence[int]) -> _Recorder:
        """Maps and scores."""
        return _Recorder(layers, self.params.channels)

    def lengths(self, train_length: int) -> tuple[int, ...]:
        """The training length and 2, 4 and 8 times as much."""
        return tuple(train_length * 2**k for k in range(4))

    def read(self, subject, recorder: _Recorder) -> None:
        """All lengths; needles where the task has them."""
        front, recorder.train_tokens = (
            subject.tokens_in_front(),
            subject.task.context_tokens(subject.train_length),
        )
        for length in subject.lengths:
            shift = front - subject.window(length).first
            spans = subject.items.spans(length) or []
            recorder.needles[length] = [(a + shift, b + shift) for a, b in spans[: subject.num_items]]
        super().read(subject, recorder)

    def result(self, recorder: _Recorder) -> Readings:
        """Contrast of the tokens by layer and length; where there is a needle, its rank and recall."""
        rows, arrays = [], {}
        for length, spans in recorder.needles.items():
            ranks, recalls = [], []
            for layer in recorder.watched:
                scores, place = torch.cat(recorder.scores[length, layer]).numpy(), (length, layer)
                spread = np.quantile(scores, 0.99, axis=1) / np.maximum(np.median(scores, axis=1), 1e-30)
                rows.append(Reading("99 % quantile / median of q", float(spread.mean()), *place))
                arrays[f"map {length} {layer}"] = _binned(recorder.maps[length, layer], self.params.bins)
                arrays[f"scores {length} {layer}"] = _binned(scores[:1].T, self.params.bins)[:, 0]
                if spans:
                    rank, found, few = needle_ranks(scores, spans, recorder.train_tokens)
                    ranks.append(rank)
                    recalls.append(found)
                    rows.append(Reading("rank of the needle", rank, *place))
                    rows.append(Reading("recall at L_train", found, *place))
                    rows.append(Reading("recall at the needle's size", few, *place))
            rows.append(Reading("best rank of the needle", min(ranks, default=float("nan")), length))
            rows.append(Reading("best recall at L_train", max(recalls, default=float("nan")), length))
            arrays |= {f"needle {length}": np.array(span) for span in spans[:1]}
        return Readings(rows, arrays)

    def figure(self, several: Sequence[Readings]):
        """Maps of three layers at the longest length, of the first model; marks show the needle."""
        from lgbench.report import probe_panels as draw
        from lgbench.report.style import COLOURS, looks, new_figure

        one = several[0]
        length, layers = one.facts["lengths"][-1], draw.columns_of(one.layers(), 3)
        with looks():
            figure, axes = new_figure(len(layers))
            maps = [one.arrays[f"map {length} {layer}"].T for layer in layers]
            every = np.log10(np.maximum(np.concatenate([found.ravel() for found in maps]), 1e-6))
            low, high = np.quantile(every, [0.02, 0.998])
            for panel, layer, found in zip(axes, layers, maps, strict=True):
                order = found.mean(axis=1).argsort()[::-1]
                shown = np.log10(np.maximum(found[order], 1e-6))
                extent = (0, length, len(shown), 0)
                image = panel.imshow(shown, aspect="auto", cmap="magma", vmin=low, vmax=high, extent=extent)
                for edge in one.arrays.get(f"needle {length}", ()):
                    panel.plot(
                        [edge], [-0.02 * len(shown)], "v", color=COLOURS[2], clip_on=False, markersize=5
                    )
                panel.set_title(f"layer {layer}", loc="left", fontsize=8.5, pad=8)
                panel.set_xlabel("token")
                panel.set_xticks([0, length // 2])
                panel.tick_params(labelleft=panel is axes[0])
            axes[0].set_ylabel("channel, by mean Δ")
            marked = "Marks: the needle." if f"needle {length}" in one.arrays else ""
            text = f"{draw.name_of(one, several)}, first item. {marked}"
            draw.finish(figure, axes, [one], [text], right_in=0.8, top_in=0.25)
            draw.colour_bar(figure, axes[-1], image, r"$\log_{10}\Delta$")
        return figure


def _binned(values: np.ndarray, most: int) -> np.ndarray:
    """Means `(stretches, …)` over equal stretches of the first axis; the last may be shorter."""
    size = -(-len(values) // most)
    edges = range(0, len(values), size)
    return np.stack([values[k : k + size].mean(axis=0) for k in edges]).astype(np.float32)


class _Recorder(ScanRecorder):
    def __init__(self, layers: Sequence[int], channels: int) -> None:
        super().__init__(layers)
        self._channels, self.train_tokens = channels, 0
        self.needles: dict[int, list[tuple[int, int]]] = {}
        self.scores: dict[tuple[int, int], list[Tensor]] = {}
        self.maps: dict[tuple[int, int], np.ndarray] = {}

    def see(self, layer: int, first: int, *, delta: Tensor, **_: Tensor) -> None:
        """Keep q of all items and Δ of the first."""
        key, scores = (self.length, layer), torch.linalg.vector_norm(delta.float(), dim=-1).cpu()
        pieces = self.scores.setdefault(key, [])
        if first == 0:
            pieces.append(scores)
        else:
            pieces[-1] = torch.cat([pieces[-1], scores], dim=1)
        if self.chosen.start == 0:
            step = -(-delta.shape[-1] // self._channels)
            mine = delta[0, :, ::step].float().cpu().numpy()
            self.maps[key] = mine if first == 0 else np.concatenate([self.maps[key], mine])
