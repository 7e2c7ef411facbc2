"""What a model still knows of patches that it has seen, as more tokens come.

    M[g, t]    error on the patches of group g, tokens (2^(g-1), 2^g], asked for at their places after t

Derived: A, the first tokens against t; B, all tokens so far; C, the latest ones. With a small training length
A rises with t (R1), with a large one it falls up to that length (R2). Source: Rathjens et al., Fig. 5 right,
whose words allow all three readings.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from pydantic import Field

from lgbench.probe import Probe, Reading, Readings
from lgbench.probes._painting import Painted

READINGS = {
    "A": "error on the first tokens",
    "B": "error on all tokens so far",
    "C": "error on the latest tokens",
}


class SeenPatches(Probe):
    """Asks for places of the context; the matrix of errors as an array, mean over items."""

    class Params(Probe.Params):
        group: int = Field(128, ge=1, description="tokens of the first and of the latest group")
        queries: int = Field(256, ge=1, le=4096, description="places asked for in a group, at most")

    statistics = (*READINGS.values(), "rise on the first tokens")
    num_items = 16

    def lengths(self, train_length: int) -> tuple[int, ...]:
        """Powers of two from 16 to 16 times the training length."""
        return tuple(2**k for k in range(4, (16 * train_length).bit_length()) if 2**k <= 16 * train_length)

    def applies(self, task, items, method, backbone) -> str | None:
        """To tasks whose tokens have a place that can be asked for."""
        context = items.context(slice(0, 1), 0, 1, task.min_length)
        if {*context} != {"patches", "places"}:
            return "it asks for what stood at the places of context tokens, and those of this task have none"
        return None

    def recorder(self, layers: Sequence[int]) -> Painted:
        """Errors."""
        return Painted(layers)

    def read(self, subject, recorder: Painted) -> None:
        """Each length by itself; all groups are asked for from the state after it."""
        edges = [0, *subject.lengths]
        for k, time in enumerate(subject.lengths):
            groups = {f"group {edge}": (edges[g], edge) for g, edge in enumerate(edges[1 : k + 2])}
            groups |= {
                "A": (0, min(self.params.group, time)),
                "B": (0, time),
                "C": (max(0, time - self.params.group), time),
            }
            for chosen in subject.batches(time):
                state = subject.read(time, chosen)
                for name, (start, stop) in groups.items():
                    recorder.add(name, time, values=self._errors(subject, state, chosen, time, start, stop))

    def _errors(self, subject, state: list, chosen: slice, time: int, start: int, stop: int) -> np.ndarray:
        """Mean error of each item on tokens `start` to `stop`, in random order, a part of many."""
        size = min(self.params.queries, stop - start)
        order = torch.randperm(stop - start, generator=torch.Generator().manual_seed(0))[:size]
        seen = subject.items.context(chosen, start, stop, time)
        order = order.to(seen["patches"].device)
        targets = seen["patches"][:, order]
        announced = subject.window(time).announced
        answer = subject.model.answer_from(state, {"places": seen["places"][:, order]}, size, announced)
        return subject.task.score(answer, targets).mean(dim=1).float().cpu().numpy()

    def result(self, recorder: Painted) -> Readings:
        """Readings A, B and C by time, and the matrix."""
        times = sorted({name[1] for name in recorder.kept})
        rows = [
            Reading(words, float(recorder.of(letter, time).mean()), time)
            for letter, words in READINGS.items()
            for time in times
        ]
        matrix = np.full((len(times), len(times)), np.nan, dtype=np.float32)
        for column, time in enumerate(times):
            for row, group in enumerate(times[: column + 1]):
                matrix[row, column] = recorder.of(f"group {group}", time).mean()
                rows.append(
                    Reading("error on the group", float(matrix[row, column]), time, group=f"up to {group}")
                )
        first = [recorder.of("A", time).mean() for time in times if time >= self.params.group] or [1.0]
        rows.append(Reading("rise on the first tokens", float(first[-1] / first[0])))
        items = {f"items {letter}": np.stack([recorder.of(letter, t) for t in times]) for letter in READINGS}
        return Readings(rows, {"matrix": matrix, "times": np.array(times)} | items)

    def figure(self, several: Sequence[Readings]):
        """Readings B and A over time, a line a model."""
        from lgbench.report import probe_panels as draw
        from lgbench.report.style import looks

        group = self.params.group
        panels = [
            (READINGS["B"], "MSE on all tokens so far", {}),
            (READINGS["A"], f"MSE on the first {group}", {}),
        ]
        if len(several) > 1:
            panels.append((READINGS["C"], f"MSE on the latest {group}", {}))
        with looks():
            text = "Patches that the model has seen, asked for at their places."
            matrix = partial(_draw_matrix, several[0].arrays) if len(several) == 1 else None
            return draw.by_model(several, panels, [text], last=matrix)


def _draw_matrix(arrays, panel):
    """M[g, t] as a map, dark is a small error; groups and times are named by their last token."""
    from lgbench.report.wording import format_length

    times = arrays["times"]
    image = panel.imshow(arrays["matrix"], cmap="viridis", origin="lower", aspect="auto")
    ticks = range(0, len(times), max(1, len(times) // 4))
    panel.set_xticks(ticks, [format_length(times[k]) for k in ticks])
    panel.set_yticks(ticks, [format_length(times[k]) for k in ticks])
    panel.set_xlabel("context (tokens, K = 1,024)")
    panel.set_ylabel("tokens of the group, up to")
    return image, "MSE"
