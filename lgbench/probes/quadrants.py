"""Whether a later quadrant washes out an earlier one: a character in the top left, read quadrant by quadrant.

    order A    top left, top right, bottom left, bottom right      order B    top right first, top left second

A quarter of the context is drawn in each quadrant, the same tokens in both orders. Of a small training
length contrast decays over the quadrants that follow (Q2); order B gives blurred strokes or weak ones (Q3),
so sharpness and contrast are apart. Source: Rathjens et al., Fig. 4; sizes and measures are our reading.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from lgbench.probe import Probe, Reading, Readings
from lgbench.probes import _painting as paint
from lgbench.probes._painting import Painted

ORDERS = {"A": (0, 1, 2, 3), "B": (1, 0, 2, 3)}
"""Quadrants in the order of reading: top left, top right, bottom left, bottom right."""
HALF = 64


class Quadrants(Probe):
    """Paints at several points of every quadrant, judged in the top left one; keeps those of one item."""

    class Params(Probe.Params):
        points: int = Field(4, ge=1, le=64, description="paintings inside of each quadrant")

    statistics = ("contrast after four / after one", "contrast of B / of A", "sharpness of B / of A")
    num_items = 16

    def lengths(self, train_length: int) -> tuple[int, ...]:
        """All four quadrants together: the training length, and four times as much."""
        return (train_length, 4 * train_length)

    def applies(self, task, items, method, backbone) -> str | None:
        """To Omniglot, whose characters it draws anew."""
        from lgbench.tasks.omniglot import Omniglot

        return None if isinstance(task, Omniglot) else "it draws characters of Omniglot into a quadrant"

    def recorder(self, layers: Sequence[int]) -> Painted:
        """Pictures."""
        return Painted(layers)

    def read(self, subject, recorder: Painted) -> None:
        """Both orders of all lengths."""
        for length in subject.lengths:
            each = max(1, length // 4)
            times = sorted({round((q + k / self.params.points) * each) for q in range(4)
                            for k in range(1, self.params.points + 1)} - {0})  # fmt: skip
            for chosen in subject.batches(length):
                images, centres = _characters(subject.task, chosen), _centres(chosen, each)
                truth = images[:, :127, :127].cpu().numpy()
                for name, order in ORDERS.items():
                    places = torch.cat([centres[quadrant] for quadrant in order], dim=1)
                    tokens = _tokens(subject.task, images, places.to(images.device))
                    state, start = None, 0
                    for time in times:
                        window = subject.window(length)._replace(first=start, announced=4 * each)
                        state = subject.stream(tokens, window, length, stop=time, state=state)
                        start = time
                        pictures = subject.paint(state, chosen, 4 * each)
                        _judge(recorder, (length, name, time), pictures, truth)
                        if chosen.start == 0 and time % each == 0:
                            shown = paint.most_ink(truth)
                            recorder.add("pictures", length, name, time, values=pictures[shown])
                            recorder.kept["truth",] = [truth[shown]]

    def result(self, recorder: Painted) -> Readings:
        """Means in the top left quadrant by time, and the three ratios of means."""
        rows, arrays = [], {}
        for length in sorted({name[1] for name in recorder.kept if len(name) > 1}):
            each, found = max(1, length // 4), {}
            for order in ORDERS:
                times = sorted({n[3] for n in recorder.kept if n[1:3] == (length, order)})
                for what in ("contrast", "correlation", "sharpness"):
                    table = np.stack([recorder.of(what, length, order, time) for time in times])
                    arrays[f"{what} {length} {order}"] = table
                    found[what, order] = dict(zip(times, np.nanmean(table, axis=1), strict=True))
                    rows += [
                        Reading(what, float(value), length, group=f"order {order} after {time}")
                        for time, value in found[what, order].items()
                    ]
                ends = [recorder.kept["pictures", length, order, q * each][0] for q in (1, 2, 3, 4)]
                arrays[f"pictures {length} {order}"] = paint.as_bytes(np.stack(ends))
            a, b, sharp = found["contrast", "A"], found["contrast", "B"], "sharpness"
            ratios = (a[4 * each] / a[each], b[4 * each] / a[4 * each],
                      found[sharp, "B"][4 * each] / found[sharp, "A"][4 * each])  # fmt: skip
            rows += [Reading(n, float(v), length) for n, v in zip(self.statistics, ratios, strict=True)]
            arrays |= {
                f"times {length}": np.array(times),
                "truth": paint.as_bytes(recorder.kept["truth",][0]),
            }
        return Readings(rows, arrays)

    def figure(self, several: Sequence[Readings]):
        """Two rows a model, a column after each quadrant, the truth last; at the longest length."""
        from lgbench.report import probe_panels as draw
        from lgbench.report.style import looks

        truth, rows = paint.from_bytes(several[0].arrays["truth"]), []
        for one in several:
            length = one.facts["lengths"][-1]
            for order in ORDERS:
                shown = paint.from_bytes(one.arrays[f"pictures {length} {order}"])
                name = f"{draw.name_of(one, several)}\n{length:,} tokens, order {order}"
                rows.append((name, [*shown, truth]))
        with looks():
            headings = ["after one", "two", "three", "four", "truth"]
            text = "A: top left, top right, bottom left, bottom right. B: top right first, then top left."
            return draw.picture_rows(several, rows, headings, [text], widest_in=4.6)


def _judge(recorder: Painted, place: tuple, pictures: np.ndarray, truth: np.ndarray) -> None:
    corner, real = pictures[:, :HALF, :HALF], truth[:, :HALF, :HALF]
    recorder.add("contrast", *place, values=paint.contrast(corner, real))
    recorder.add("correlation", *place, values=paint.correlation(corner, real))
    recorder.add("sharpness", *place, values=paint.sharpness(corner))


def _characters(task, chosen: slice) -> Tensor:
    """Held-out characters at half size in the top left of a white canvas, `(items, 128, 128)`."""
    from lgbench.tasks.omniglot.images import resize

    order = torch.randperm(len(task.eval), generator=torch.Generator().manual_seed(0))[chosen]
    small = resize(task.images[task.eval[order.to(task.eval.device)]], HALF)
    return torch.nn.functional.pad(small, (0, HALF, 0, HALF), value=1.0)


def _centres(chosen: slice, each: int) -> list[Tensor]:
    """Places in each quadrant, `(items, each, 2)` as (column, row); 2 to 63 and 64 to 125."""
    generator = torch.Generator().manual_seed(1 + chosen.start)
    drawn = torch.randint(2, HALF, (4, chosen.stop - chosen.start, each, 2), generator=generator)
    return [drawn[q] + torch.tensor([62 * (q % 2), 62 * (q // 2)]) for q in range(4)]


def _tokens(task, images: Tensor, centres: Tensor):
    """What gives a part of the context."""
    from lgbench.tasks.omniglot.images import cut_patches
    from lgbench.tasks.omniglot.items import PATCH, relative

    def tokens(start: int, stop: int) -> dict[str, Tensor]:
        part = centres[:, start:stop]
        context = {"patches": cut_patches(images, part, PATCH), "places": relative(part)}
        return context | ({"filler": torch.zeros_like(part[..., 0]).bool()} if task.params.filler else {})

    return tokens
