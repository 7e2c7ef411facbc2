"""How much an answer depends on the first tokens: the answer with and without them.

    EffRem_T(t) = TV(q(· | x[0:T]), q(· | x[t:T]))        TV = half of the L1 distance, 0 to 1

High at small t means that few early tokens decide. Where answers are pixels, each is a Bernoulli variable
of probability (v + 1) / 2. Source: Ruiz and Gu, arXiv:2507.02782, effective remembrance.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field
from torch import Tensor

from lgbench.probe import Probe, Reading, Readings
from lgbench.probes._painting import Painted


class EffectiveRemembrance(Probe):
    """Answers the task's queries from the whole context and from its rests; mean over queries."""

    class Params(Probe.Params):
        shares: tuple[float, ...] = Field(
            (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4, 7 / 8, 15 / 16),
            min_length=1,
            description="parts of the context that are left out, above 0 and below 1",
        )
        queries: int = Field(16, ge=1, description="queries of an item, at most")

    statistics = ("distance without the first 1/16", "distance without the first half")

    def lengths(self, train_length: int) -> tuple[int, ...]:
        """The training length and 8 times as much."""
        return (train_length, 8 * train_length)

    def applies(self, task, items, method, backbone) -> str | None:
        """To answers that are tokens or pixels, of items that all have the same tokens."""
        _, targets = items.queries(slice(0, 1), task.min_length, 1)
        if targets.is_floating_point() and not items.gallery_items:
            return "it compares distributions of answers, and this task answers in numbers without any"
        return "its items differ in length" if items.padded else None

    def recorder(self, layers: Sequence[int]) -> Painted:
        """Distances."""
        return Painted(layers)

    def read(self, subject, recorder: Painted) -> None:
        """The whole context, then from each cut on."""
        classes = not subject.items.gallery_items
        for length in subject.lengths:
            stop = subject.items.num_tokens(length)
            for chosen in subject.batches(length):
                whole = self._answer(subject, length, chosen, 0)
                for cut in sorted({round(share * stop) for share in self.params.shares} - {0, stop}):
                    rest = self._answer(subject, length, chosen, cut)
                    recorder.add("distance", length, cut, values=distance(whole, rest, classes).cpu().numpy())

    def _answer(self, subject, length: int, chosen: slice, cut: int) -> Tensor:
        """Probabilities of the answers `(items, queries, …)` from a context without its first tokens."""
        window = subject.window(length)
        skipped = max(0, cut - window.first)
        window = window._replace(first=window.first + skipped, announced=window.announced - skipped)
        state = subject.stream(subject.tokens(length, chosen), window, length)
        asked = self.params.queries if subject.items.gallery_items else 1
        queries, targets = subject.items.queries(chosen, length, asked)
        answer = subject.model.answer_from(state, queries, targets.shape[1], window.announced).float()
        return (answer + 1) / 2 if targets.is_floating_point() else answer.softmax(dim=-1)

    def result(self, recorder: Painted) -> Readings:
        """Mean distance by the tokens left out, at each length."""
        rows, arrays = [], {}
        for length in sorted({name[1] for name in recorder.kept}):
            cuts = sorted(name[2] for name in recorder.kept if name[1] == length)
            table = np.stack([recorder.of("distance", length, cut) for cut in cuts])
            mean = table.mean(axis=1)
            rows += [
                Reading("distance", float(value), length, group=f"without {cut}")
                for cut, value in zip(cuts, mean, strict=True)
            ]
            for name, share in zip(self.statistics, (1 / 16, 1 / 2), strict=True):
                rows.append(Reading(name, float(np.interp(share * length, cuts, mean)), length))
            arrays |= {f"distances {length}": table, f"cuts {length}": np.array(cuts)}
        return Readings(rows, arrays)

    def figure(self, several: Sequence[Readings]):
        """Distance over the share that was left out, a panel a length, a line a model."""
        from matplotlib.lines import Line2D

        from lgbench.report import probe_panels as draw
        from lgbench.report.style import looks, new_figure

        count = max(len(one.facts["lengths"]) for one in several)
        with looks():
            figure, axes = new_figure(count)
            for k, panel in enumerate(axes):
                titles = []
                for look, one in zip(draw.looks_of(several), several, strict=True):
                    if k < len(one.facts["lengths"]):
                        length = one.facts["lengths"][k]
                        titles.append(f"{length:,}")
                        share = one.arrays[f"cuts {length}"] / length
                        panel.plot(share, one.arrays[f"distances {length}"].mean(axis=1), **look)
                panel.set_title(f"context {' / '.join(dict.fromkeys(titles))}", loc="left", fontsize=8.5)
                panel.set_xscale("log", base=2)
                panel.set_xlabel("share of the context left out")
            axes[0].set_ylabel("total variation")
            draw.same_limits(axes)
            handles = [
                Line2D([], [], label=draw.name_of(one, several), **look)
                for look, one in zip(draw.looks_of(several), several, strict=True)
            ]
            draw.finish(figure, axes, several, [], handles=handles, top_in=0.2, left_in=0.82)
        return figure


def distance(one: Tensor, other: Tensor, classes: bool) -> Tensor:
    """Total variation of answers, mean over queries, `(items,)`.

    Args:
        one: probabilities `(items, queries, …)`; `other` alike.
        classes: whether the last dimension is one distribution; otherwise each entry is that of a pixel.
    """
    apart = (one - other).abs()
    return (apart.sum(dim=-1) / 2 if classes else apart.mean(dim=-1)).flatten(1).mean(dim=1)
