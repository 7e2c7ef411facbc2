"""How rough an estimate of the length is enough: a method is given a false one.

    given length = factor × true length        score at each true length and factor, mean over items

For methods that must know the length before the first token: prepended, slow clocks, scales fitted for a
length. Source: our own; the interface of the prepended model of Rathjens et al. allows it, they did not try.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from lgbench.probe import Probe, Reading, Readings
from lgbench.probes._painting import Painted


class WrongLength(Probe):
    """The task's score, answers not generated; the loss of accuracy at half and twice the length as rows."""

    class Params(Probe.Params):
        factors: tuple[float, ...] = Field(
            (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0), min_length=1, description="given length / true length"
        )
        queries: int = Field(64, ge=1, description="queries of an item, at most")

    statistics = ("score at half / score at true", "score at twice / score at true")
    num_items = 32

    def lengths(self, train_length: int) -> tuple[int, ...]:
        """The training length, and 2 and 8 times as much."""
        return (train_length, 2 * train_length, 8 * train_length)

    def fitted_lengths(self, lengths: tuple[int, ...]) -> tuple[int, ...]:
        """All lengths that are given."""
        given = {max(1, round(factor * length)) for factor in self.params.factors for length in lengths}
        return tuple(sorted(given | {*lengths}))

    def applies(self, task, items, method, backbone) -> str | None:
        """To methods that need the length."""
        if method.needs_length or method.calibration_length(8 * 4096, 4096) is not None:
            return None
        return "it gives a false length to methods that need one, and this one does not"

    def recorder(self, layers: Sequence[int]) -> Painted:
        """Scores."""
        return Painted(layers)

    def read(self, subject, recorder: Painted) -> None:
        """One pass a length and factor."""
        for length in subject.lengths:
            window = subject.window(length)
            for factor in sorted({*self.params.factors, 1.0}):
                given = max(1, round(factor * window.announced))
                fitted_for = max(1, round(factor * length))
                for chosen in subject.batches(length):
                    tokens, stop = subject.tokens(length, chosen), subject.items.num_tokens(length)
                    told = window._replace(announced=given)
                    state = subject.stream(tokens, told, fitted_for, stop=stop)
                    queries = 1 if subject.task.generates else self.params.queries
                    scores = subject.score(state, length, chosen, queries, given).float()
                    recorder.add("scores", length, factor, values=scores.mean(dim=1).cpu().numpy())

    def result(self, recorder: Painted) -> Readings:
        """Scores by length and factor, and against that of the true length."""
        rows, arrays = [], {}
        for length in sorted({name[1] for name in recorder.kept}):
            factors = sorted(name[2] for name in recorder.kept if name[1] == length)
            table = np.stack([recorder.of("scores", length, factor) for factor in factors])
            mean = dict(zip(factors, table.mean(axis=1), strict=True))
            rows += [
                Reading("score", float(value), length, group=f"{factor:g} of the length")
                for factor, value in mean.items()
            ]
            for name, factor in zip(self.statistics, (0.5, 2.0), strict=True):
                ratio = mean.get(factor, np.nan) / mean[1.0] if mean[1.0] else np.nan
                rows.append(Reading(name, float(ratio), length))
            arrays |= {f"scores {length}": table, f"factors {length}": np.array(factors)}
        return Readings(rows, arrays)

    def figure(self, several: Sequence[Readings]):
        """Score over the factor, a panel a model, a line a true length."""
        from matplotlib.lines import Line2D
        from matplotlib.ticker import FuncFormatter

        from lgbench.report import probe_panels as draw
        from lgbench.report.style import line_style, looks, new_figure

        with looks():
            figure, axes = new_figure(len(several))
            for one, panel in zip(several, axes, strict=True):
                for k, length in enumerate(one.facts["lengths"]):
                    scores = one.arrays[f"scores {length}"].mean(axis=1)
                    panel.plot(one.arrays[f"factors {length}"], scores, **line_style(k))
                panel.axvline(1, color="black", linewidth=0.8, linestyle="--")
                panel.set_xscale("log", base=2)
                panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
                panel.set_xlabel("given length / true length")
                panel.set_title(draw.name_of(one, several), loc="left", fontsize=8.5)
            axes[0].set_ylabel(several[0].facts["metric"])
            draw.same_limits(axes)
            trained = several[0].facts["train_length"]
            handles = [
                Line2D([], [], label=f"true length {n / trained:g} $L_{{train}}$", **line_style(k))
                for k, n in enumerate(several[0].facts["lengths"])
            ]
            draw.finish(figure, axes, several, [], handles=handles, top_in=0.2)
        return figure
