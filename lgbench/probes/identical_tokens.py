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
from lgbench.probes._painting import (
    Painted,
    as_bytes,
    contrast,
    correlation,
    from_bytes,
    halved,
    most_ink,
    no_pictures,
)  # fmt: skip


class IdenticalTokens(Probe):
    """Dense paintings at each length; contrast and correlation of each item as arrays, for paired tests.

    Paintings of one item are kept, at half the resolution.
    """

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
                    shown = most_ink(truth)
                    recorder.add("pictures", length, values=halved(pictures[shown]))
                    recorder.kept["truth",] = [halved(truth[shown])]

    def result(self, recorder: Painted) -> Readings:
        """Means over items by length, and the first length beyond the best one that is not recognised."""
        lengths = sorted({name[1] for name in recorder.kept if name[0] == "contrast"})
        arrays = {
            "contrast": np.stack([recorder.of("contrast", n) for n in lengths]),
            "correlation": np.stack([recorder.of("correlation", n) for n in lengths]),
            "pictures": as_bytes(np.stack([recorder.kept["pictures", n][0] for n in lengths])),
            "truth": as_bytes(recorder.kept["truth",][0]),
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
        """A row a model, a column a length, the truth last."""
        from lgbench.report import probe_panels as draw
        from lgbench.report.style import looks

        truth = from_bytes(several[0].arrays["truth"])
        columns = draw.columns_of(sorted({int(n) for one in several for n in one.arrays["lengths"]}))
        rows, trained = [], []
        for one in several:
            kept = zip(one.arrays["lengths"], from_bytes(one.arrays["pictures"]), strict=True)
            at = {int(length): picture for length, picture in kept}
            rows.append((draw.name_of(one, several), [*(at.get(n) for n in columns), truth]))
            trained.append([k for k, n in enumerate(columns) if n <= one.facts["train_length"]])
        with looks():
            text = "Columns: context tokens (K = 1,024), the same for all models. Line: lengths of training."
            headings = [*map(draw.heading, columns), "truth"]
            return draw.picture_rows(several, rows, headings, [text], underlined=trained)
