"""What models paint of one picture from the same tokens, after more and more of them.

Quality first improves; each model breaks down at a length that grows with its training length (V1), and at
small lengths the model of smaller training length paints with more contrast (V2).
Source: Rathjens et al., Fig. 3; contrast = mean(painted | background) - mean(painted | stroke), 2 is perfect,
and a correlation with the truth under `recognised` counts as broken down (both are our reading).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from lgbench.probe import Probe, Reading, Readings
from lgbench.probes._painting import Painted, contrast, correlation, no_pictures

SHOWN = 4


class IdenticalTokens(Probe):
    """Dense paintings at each length; contrast and correlation of each item as arrays, for paired tests."""

    class Params(Probe.Params):
        recognised: float = Field(0.3, gt=0, lt=1, description="correlation under which a picture is broken")

    statistics = ("contrast", "correlation", "breakdown length")
    num_items = 16

    def lengths(self, train_length: int) -> tuple[int, ...]:
        """From an eighth of the training length to 32 times as much."""
        return tuple(sorted({max(1, round(train_length * 2**k)) for k in range(-3, 6)}))

    def applies(self, task, items, method, backbone) -> str | None:
        """To tasks whose answers are pictures."""
        return no_pictures(items)

    def recorder(self, layers: Sequence[int]) -> Painted:
        """Pictures."""
        return Painted(layers)

    def read(self, subject, recorder: Painted) -> None:
        """Paint every item at every length."""
        for length in subject.lengths:
            for chosen in subject.batches(length):
                state = subject.read(length, chosen)
                pictures = subject.paint(state, chosen, subject.window(length).announced)
                truth = subject.items.gallery_truth(chosen)
                recorder.add("contrast", length, values=contrast(pictures, truth))
                recorder.add("correlation", length, values=correlation(pictures, truth))
                if chosen.start == 0:
                    recorder.add("pictures", length, values=pictures[:SHOWN])
                    recorder.kept["truth",] = [truth[:SHOWN]]

    def result(self, recorder: Painted) -> Readings:
        """Means over items by length, and the first length beyond the best one that is not recognised."""
        lengths = sorted({name[1] for name in recorder.kept if name[0] == "contrast"})
        arrays = {
            "contrast": np.stack([recorder.of("contrast", n) for n in lengths]),
            "correlation": np.stack([recorder.of("correlation", n) for n in lengths]),
            "pictures": np.stack([recorder.of("pictures", n) for n in lengths], axis=1).astype(np.float16),
            "truth": recorder.of("truth").astype(np.float16),
            "lengths": np.array(lengths),
        }
        means = {name: np.nanmean(arrays[name], axis=1) for name in ("contrast", "correlation")}
        rows = [
            Reading(name, float(value), length)
            for name, values in means.items()
            for length, value in zip(lengths, values, strict=True)
        ]
        best = int(means["correlation"].argmax())
        broken = [n for n, r in zip(lengths, means["correlation"], strict=True) if r < self.params.recognised]
        after = [n for n in broken if n > lengths[best]]
        rows.append(Reading("best length", lengths[best]))
        rows.append(Reading("breakdown length", float(after[0]) if after else float("inf")))
        return Readings(rows, arrays)

    def figure(self, several: Sequence[Readings]):
        """A row a model, a column a length, the truth last: the item with most strokes."""
        from lgbench.report import probe_panels as draw
        from lgbench.report.style import looks

        truth = several[0].arrays["truth"].astype(float)
        item = int((truth < 0).mean(axis=(1, 2)).argmax())
        columns = draw.columns_of(sorted({int(n) for one in several for n in one.arrays["lengths"]}))
        rows, trained = [], []
        for one in several:
            at = {int(n): one.arrays["pictures"][item, k] for k, n in enumerate(one.arrays["lengths"])}
            pictures = [at.get(n) for n in columns]
            rows.append(
                (
                    draw.name_of(one, several),
                    [*(p if p is None else p.astype(float) for p in pictures), truth[item]],
                )
            )
            trained.append([k for k, n in enumerate(columns) if n <= one.facts["train_length"]])
        with looks():
            text = "Columns: context tokens (K = 1,024), the same for all models. Line: lengths of training."
            headings = [*map(draw.heading, columns), "truth"]
            return draw.picture_rows(several, rows, headings, [text], underlined=trained)
