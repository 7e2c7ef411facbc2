"""How fast a model leaves one picture for another: tokens of a second one follow those of the first.

    painted ≈ a · first + b · second + c        least squares over pixels, at times after the switch

The switch comes after the context length. Both end at a ≈ 0 and b large (S1); the model of smaller training
length adapts faster (S2, S3). Source: Rathjens et al., Fig. 5 left; there the switch is at 16,384 tokens, and
the way to measure is our reading. The tokens of item k are followed by those of item k + 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from pydantic import Field

from lgbench.probe import Probe, Reading, Readings
from lgbench.probes._painting import Painted, no_pictures, shares


class ImageSwitch(Probe):
    """Paints at the switch and after it; a and b of each pair of items as arrays."""

    class Params(Probe.Params):
        points: int = Field(8, ge=1, le=16, description="times after the switch, each twice the one before")

    statistics = ("half-adaptation time", "rest of the first picture")
    num_items = 16

    def lengths(self, train_length: int) -> tuple[int, ...]:
        """A switch at four times the training length."""
        return (4 * train_length,)

    def applies(self, task, items, method, backbone) -> str | None:
        """To tasks whose answers are pictures and whose tokens may be mixed."""
        if not task.exchangeable:
            return "it puts tokens of two items behind each other, which are no sequence of this task"
        return no_pictures(items) or (None if items.num_items > 1 else "it needs two items, got --items 1")

    def recorder(self, layers: Sequence[int]) -> Painted:
        """Pictures."""
        return Painted(layers)

    def read(self, subject, recorder: Painted) -> None:
        """Read on from the state at one time to that at the next."""
        for switch in subject.lengths:
            after = [0] + [switch >> k for k in range(self.params.points - 1, -1, -1) if switch >> k]
            for chosen in subject.batches(switch):
                first = subject.items.gallery_truth(chosen)
                second = np.roll(first, -1, axis=0)
                announced, state, start = 2 * switch, None, 0
                for time in after:
                    window = subject.window(switch)._replace(first=start, announced=announced)
                    tokens = _switched(subject, chosen, switch)
                    start = switch + time
                    state = subject.stream(tokens, window, switch, stop=start, state=state)
                    pictures = subject.paint(state, chosen, announced)
                    recorder.add("shares", switch, time, values=shares(pictures, first, second))

    def result(self, recorder: Painted) -> Readings:
        """Means of a and b by time after the switch, and the first time at which b is at least a."""
        rows, arrays = [], {}
        for switch in sorted({name[1] for name in recorder.kept if name[0] == "shares"}):
            times = sorted(name[2] for name in recorder.kept if name[:2] == ("shares", switch))
            table = np.stack([recorder.of("shares", switch, time) for time in times])
            a, b = table[..., 0].mean(axis=1), table[..., 1].mean(axis=1)
            for time, first, second in zip(times, a, b, strict=True):
                rows.append(Reading("share of the first picture", float(first), time, group=f"at {switch}"))
                rows.append(Reading("share of the second picture", float(second), time, group=f"at {switch}"))
            rows.append(Reading("half-adaptation time", _crossing(times, a - b), switch))
            rows.append(Reading("rest of the first picture", float(a[-1]), switch))
            arrays[f"shares {switch}"] = table
            arrays[f"times {switch}"] = np.array(times)
        return Readings(rows, arrays)

    def figure(self, several: Sequence[Readings]):
        """a and b over the time after the switch, a panel a model."""
        from matplotlib.lines import Line2D

        from lgbench.report import probe_panels as draw
        from lgbench.report.style import length_axis, line_style, looks, new_figure

        with looks():
            figure, axes = new_figure(len(several))
            for one, panel in zip(several, axes, strict=True):
                switch = one.facts["lengths"][-1]
                times = one.arrays[f"times {switch}"][1:]
                for k in range(2):
                    values = one.arrays[f"shares {switch}"][1:, :, k]
                    error = 1.96 * values.std(axis=1) / values.shape[1] ** 0.5
                    mean, look = values.mean(axis=1), line_style(k)
                    panel.plot(times, mean, **look)
                    panel.fill_between(
                        times, mean - error, mean + error, color=look["color"], alpha=0.2, linewidth=0
                    )
                panel.axhline(0, color="black", linewidth=0.5)
                length_axis(panel, times.tolist(), "tokens after the switch (K = 1,024)")
                panel.set_title(
                    f"{draw.name_of(one, several)}, switch at {draw.heading(switch)}", loc="left", fontsize=8
                )
            axes[0].set_ylabel("share in the painting")
            draw.same_limits(axes)
            labels = ("first picture (a)", "second picture (b)")
            handles = [Line2D([], [], label=label, **line_style(k)) for k, label in enumerate(labels)]
            text = "Mean and 95 % interval over pairs of items."
            draw.finish(figure, axes, several, [text], handles=handles, top_in=0.2)
        return figure


def _switched(subject, chosen: slice, switch: int):
    """Tokens of these items up to the switch, from then on those of the next item, at their own places."""
    own = subject.tokens(switch, chosen)

    def tokens(start: int, stop: int):
        parts = []
        if start < switch:
            parts.append(own(start, min(stop, switch)))
        if stop > switch:
            later = own(max(start, switch), stop)
            parts.append({name: values.roll(-1, dims=0) for name, values in later.items()})
        return {name: torch.cat([part[name] for part in parts], dim=1) for name in parts[0]}

    return tokens


def _crossing(times: Sequence[int], difference: np.ndarray) -> float:
    """The first time at which the difference is not above 0, interpolated; infinite if there is none."""
    for k, value in enumerate(difference):
        if value <= 0:
            if k == 0:
                return float(times[0])
            before = difference[k - 1]
            return float(times[k - 1] + (times[k] - times[k - 1]) * before / (before - value))
    return float("inf")
