"""Whether answers get worse from query to query: the error of the j-th query after one context.

    error(j)      mean over items, at each context length; queries are causal, so one pass gives all j

Queries are tokens too, so many of them are another way to be longer than training. Source: Rathjens et al.,
§5 (M8: degradation beyond the trained number of queries); the curve by index is our addition.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from pydantic import Field

from lgbench.errors import UserError
from lgbench.probe import Probe, Reading, Readings
from lgbench.probes._painting import Painted


class QueryIndex(Probe):
    """The task's score of each query; `slope` compares the last quarter of the queries with the first."""

    class Params(Probe.Params):
        queries: int = Field(1024, ge=4, description="queries after each context")

    statistics = ("last quarter / first quarter",)
    num_items = 32

    def lengths(self, train_length: int) -> tuple[int, ...]:
        """A quarter of the training length, this length, and 8 times as much."""
        return tuple(sorted({max(1, train_length // 4), train_length, 8 * train_length}))

    def applies(self, task, items, method, backbone) -> str | None:
        """To items that have so many queries."""
        if task.generates:
            return "an item of this task has one answer"
        try:
            _, targets = items.queries(slice(0, 1), task.min_length, self.params.queries)
        except UserError as error:
            return str(error)
        if targets.shape[1] < self.params.queries:
            return (
                f"an item has {targets.shape[1]} queries, it asks {self.params.queries} (parameter queries)"
            )
        return None

    def recorder(self, layers: Sequence[int]) -> Painted:
        """Scores."""
        return Painted(layers)

    def read(self, subject, recorder: Painted) -> None:
        """One state a length, all queries from it."""
        recorder.trained_queries = subject.cell.recipe.train_queries[1]
        for length in subject.lengths:
            for chosen in subject.batches(length):
                state = subject.read(length, chosen)
                scores = subject.score(state, length, chosen, self.params.queries)
                recorder.add("scores", length, values=scores.float().cpu().numpy())

    def result(self, recorder: Painted) -> Readings:
        """Means over stretches of queries, each twice as long as the one before."""
        rows, arrays = [], {"trained queries": np.array([recorder.trained_queries])}
        edges = [0, *(2**k for k in range(2, self.params.queries.bit_length())), self.params.queries]
        for length in sorted({name[1] for name in recorder.kept}):
            curve = recorder.of("scores", length).mean(axis=0)
            arrays[f"scores {length}"] = curve
            for start, stop in pairwise(edges):
                if stop > start:
                    value = float(curve[start:stop].mean())
                    rows.append(Reading("score of queries", value, length, group=f"{start} to {stop - 1}"))
            quarter = len(curve) // 4
            ratio = float(curve[-quarter:].mean() / max(curve[:quarter].mean(), 1e-30))
            rows.append(Reading("last quarter / first quarter", ratio, length))
        return Readings(rows, arrays)

    def figure(self, several: Sequence[Readings]):
        """Running means of the score over the index, a panel a model, a line a length."""
        from matplotlib.lines import Line2D

        from lgbench.report import probe_panels as draw
        from lgbench.report.style import line_style, looks, new_figure

        with looks():
            figure, axes = new_figure(len(several))
            for one, panel in zip(several, axes, strict=True):
                for k, length in enumerate(one.facts["lengths"]):
                    curve = one.arrays[f"scores {length}"]
                    width = max(1, len(curve) // 12)
                    smooth = np.convolve(curve, np.ones(width) / width, mode="valid")
                    at = np.arange(len(smooth)) + width / 2 + 0.5
                    panel.plot(at, smooth, **(line_style(k) | {"marker": ""}))
                panel.axvline(one.arrays["trained queries"][0], color="black", linewidth=0.8, linestyle="--")
                panel.set_title(draw.name_of(one, several), loc="left", fontsize=8.5)
                panel.set_xlabel("query")
            axes[0].set_ylabel(f"{several[0].facts['metric']}, running mean")
            draw.same_limits(axes)
            multiples = [n / several[0].facts["train_length"] for n in several[0].facts["lengths"]]
            handles = [
                Line2D([], [], label=f"context {m:g} $L_{{train}}$", **(line_style(k) | {"marker": ""}))
                for k, m in enumerate(multiples)
            ]
            text = "Dashed: the largest number of queries in training."
            draw.finish(figure, axes, several, [text], handles=handles, top_in=0.2)
        return figure
