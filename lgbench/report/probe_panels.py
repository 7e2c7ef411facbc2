"""Panels that the figures of probes are made of: curves by layer or by model, maps, rows of pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from lgbench.report.style import COLOURS, SHADE, compose, length_axis, line_styles, new_figure, width_in
from lgbench.report.wording import count_of, format_length, unit_in_words
from lgbench.store.readings import Readings

COLUMNS = 3
"""Panels side by side."""


def name_of(one: Readings, several: Sequence[Readings]) -> str:
    """A model in a legend: its method, and what else tells it from the others."""
    facts = one.facts
    parts = [facts["label"]]
    for name, words in (("backbone", "{}"), ("train_length", "$L_{{train}}$ {:,}"), ("seed", "seed {}")):
        if len({str(other.facts[name]) for other in several}) > 1:
            parts.append(words.format(facts[name]))
    if len({other.facts["task"] for other in several}) > 1:
        parts.insert(0, facts["task"])
    return ", ".join(parts)


def looks_of(several: Sequence[Readings]) -> list[dict[str, Any]]:
    """Colour, marker and dashes of each model, a method's in every figure of these models."""
    labels = {str(index): one.facts["label"] for index, one in enumerate(several)}
    return list(line_styles([*labels.values()], labels).values())


def footer(several: Sequence[Readings], *sentences: str) -> list[str]:
    """Small print: task, models, items, and what the probe adds."""
    facts = [one.facts for one in several]
    tasks = ", ".join(sorted({f["task"] for f in facts}))
    models = "; ".join(dict.fromkeys(f"{f['label']} on {f['backbone']}" for f in facts))
    trained = ", ".join(f"{n:,}" for n in sorted({f["train_length"] for f in facts}))
    unit = facts[0]["length_unit"]
    seeds = ", ".join(str(n) for n in sorted({f["seed"] for f in facts}))
    items = count_of([f["items"] for f in facts], "item")
    return [
        f"Task: {tasks}. Model: {models}, trained up to {trained} {unit}, seed {seeds}. {items}.",
        *sentences,
    ]


def notice(several: Sequence[Readings]) -> str:
    """What a reader must know about the data."""
    return " ".join(dict.fromkeys(filter(None, (one.facts["notice"] for one in several))))


def trained_range(axes: Axes, train_length: float) -> None:
    """Shade the lengths of training."""
    axes.axvspan(axes.get_xlim()[0], train_length, color=SHADE, zorder=0, linewidth=0)


def by_layer(
    several: Sequence[Readings], reading: str, label: str, sentences: Iterable[str] = (), *, log: bool = True
) -> Figure:
    """A reading over the length, a panel a model, a line a layer, dark to bright."""
    figure, axes = new_figure(len(several))
    for one, panel in zip(several, axes, strict=True):
        layers, lengths = one.layers(), []
        for layer, colour in zip(layers, shades(len(layers)), strict=True):
            lengths, values = one.curve(reading, layer)
            panel.plot(lengths, values, color=colour, marker="o", markersize=2.5)
        if log:
            panel.set_yscale("log")
        unit = one.facts["length_unit"]
        length_axis(panel, lengths, f"context ({unit_in_words(unit)})", unit)
        trained_range(panel, one.facts["train_length"])
        panel.set_title(name_of(one, several), loc="left", fontsize=8.5)
    axes[0].set_ylabel(label)
    same_limits(axes)
    finish(figure, axes, several, [*sentences], handles=layer_handles(several), top_in=0.2)
    return figure


def by_model(
    several: Sequence[Readings],
    panels: Sequence[tuple[str, str, dict[str, Any]]],
    sentences: Iterable[str] = (),
    *,
    last: Callable[[Axes], tuple[ScalarMappable, str]] | None = None,
) -> Figure:
    """Readings over the length, a panel a reading, a line a model.

    Args:
        several: the models.
        panels: for each the reading, the label of its axis and what `Readings.curve` takes beside it.
        sentences: small print.
        last: draws one more panel, a map; gives what its colours say, and the words for it.
    """
    figure, axes = new_figure(len(panels) + (last is not None))
    looks = looks_of(several)
    for (reading, label, place), panel in zip(panels, axes, strict=False):
        lengths: set[int] = set()
        for look, one in zip(looks, several, strict=True):
            at, values = one.curve(reading, **place)
            panel.plot(at, values, **look)
            lengths |= set(at)
        unit = several[0].facts["length_unit"]
        length_axis(panel, sorted(lengths), f"context ({unit_in_words(unit)})", unit)
        panel.set_ylabel(label)
    handles = [
        Line2D([], [], label=name_of(one, several), **look) for look, one in zip(looks, several, strict=True)
    ]
    room = {"handles": handles, "gap_in": 0.62}
    if last is None:
        finish(figure, axes, several, [*sentences], **room)
        return figure
    image, words = last(axes[-1])
    finish(figure, axes, several, [*sentences], right_in=0.8, **room)
    colour_bar(figure, axes[-1], image, words)
    return figure


def last_rows(one: Readings) -> Figure:
    """Share of a last row's weight that is at most so far back, a panel a length, a line a layer.

    Args:
        one: with arrays `last row LENGTH LAYER`, weights of equal stretches whose sum is 1.
    """
    lengths = columns_of(one.facts["lengths"], COLUMNS)
    figure, axes = new_figure(len(lengths))
    for length, panel in zip(lengths, axes, strict=True):
        for layer, colour in zip(one.layers(), shades(len(one.layers())), strict=True):
            weights = one.arrays[f"last row {length} {layer}"][::-1]
            back = np.arange(1, len(weights) + 1) * -(-length // len(weights))
            panel.plot(back, weights.cumsum(), color=colour)
        length_axis(panel, [int(back[0]), length], f"distance ({unit_in_words('tokens')})")
        panel.set_title(f"{length:,} {one.facts['length_unit']}", loc="left", fontsize=8.5)
    axes[0].set_ylabel("share of the weight")
    same_limits(axes)
    text = "Attention of the last position to tokens at most so far back, mean over channels and items."
    finish(figure, axes, [one], [text], handles=layer_handles([one]), top_in=0.2)
    return figure


def shades(count: int) -> list[Any]:
    """Colours of layers, from dark to bright."""
    return [colormaps["viridis"](0.9 * k / max(1, count - 1)) for k in range(count)]


def layer_handles(several: Sequence[Readings]) -> list[Line2D]:
    """A legend of the layers; of many, the first, some between, and the last."""
    layers = sorted({layer for one in several for layer in one.layers()})
    shown = (
        layers
        if len(layers) <= 9
        else [layers[k] for k in np.linspace(0, len(layers) - 1, 6).round().astype(int)]
    )
    colours = dict(zip(layers, shades(len(layers)), strict=True))
    return [Line2D([], [], color=colours[layer], label=f"layer {layer}") for layer in shown]


def same_limits(axes: Sequence[Axes]) -> None:
    """One vertical scale for all panels; labels at the first of a row alone."""
    low, high = min(a.get_ylim()[0] for a in axes), max(a.get_ylim()[1] for a in axes)
    for index, panel in enumerate(axes):
        panel.set_ylim(low, high)
        if index % COLUMNS:
            panel.tick_params(labelleft=False)


def finish(
    figure: Figure, axes: Sequence[Axes], several: Sequence[Readings], sentences: Sequence[str], **layout: Any
) -> None:
    """Lay the panels out, with the small print of these models."""
    settings = {"height_in": 2.0, "columns": min(len(axes), COLUMNS), "row_gap_in": 0.75, "left_in": 0.7}
    compose(figure, axes, footer=footer(several, *sentences), notice=notice(several), **(settings | layout))


def colour_bar(figure: Figure, panel: Axes, image: ScalarMappable, label: str) -> None:
    """A bar inside of the right edge of a panel's place, after `finish`."""
    box = panel.get_position()
    bar = figure.add_axes((box.x1 + 0.012, box.y0, 0.012, box.height))
    figure.colorbar(image, cax=bar).set_label(label)
    bar.tick_params(labelsize=7)


def picture_rows(
    several: Sequence[Readings],
    rows: Sequence[tuple[str, Sequence[np.ndarray | None]]],
    headings: Sequence[str],
    sentences: Iterable[str] = (),
    *,
    underlined: Sequence[Sequence[int]] = (),
    widest_in: float = math.inf,
) -> Figure:
    """Rows of pictures with values in [-1, 1], white is 1.

    Args:
        several: the models, for the small print.
        rows: name and pictures `(height, width)`, None for a gap.
        headings: of the columns.
        sentences: small print.
        underlined: for each row the columns that a line is drawn under.
        widest_in: width of all pictures together, inches, at most.
    """
    figure, (axes,) = new_figure()
    axes.axis("off")
    step = 1.14
    for row, (name, pictures) in enumerate(rows):
        top = row * step
        axes.text(-0.1, top + 0.5, name, ha="right", va="center", linespacing=1.3)
        for column, picture in enumerate(pictures):
            if picture is None:
                continue
            left = column * step
            extent = (left, left + 1, top + 1, top)
            axes.imshow(picture, cmap="gray", vmin=-1, vmax=1, extent=extent, interpolation="nearest")
            axes.add_patch(Rectangle((left, top), 1, 1, fill=False, edgecolor="#999999", linewidth=0.5))
        columns = [k for k in (underlined[row] if underlined else ()) if pictures[k] is not None]
        if columns:
            ends = [min(columns) * step, max(columns) * step + 1]
            axes.plot(ends, [top + 1.07] * 2, color=COLOURS[0], linewidth=2)
    for column, heading in enumerate(headings):
        axes.text(column * step + 0.5, -0.08, heading, ha="center", va="bottom", fontsize=7.5)
    width, height = len(headings) * step - 0.14, len(rows) * step
    axes.set(xlim=(-0.01, width + 0.01), ylim=(height, 0), aspect="auto")
    names = [text for text in axes.texts if text.get_ha() == "right"]
    left_in = max(text.get_window_extent().width for text in names) / figure.dpi + 0.2
    across = min(widest_in, width_in() - left_in - 0.1)
    finish(
        figure, [axes], several, [*sentences], left_in=left_in, right_in=width_in() - left_in - across,
        height_in=height / width * across, top_in=0.2, bottom_in=0.05,
    )  # fmt: skip
    return figure


def columns_of(lengths: Sequence[int], most: int = 9) -> list[int]:
    """At most so many of these lengths, the first and the last among them."""
    if len(lengths) <= most:
        return list(lengths)
    return [lengths[k] for k in np.unique(np.linspace(0, len(lengths) - 1, most).round().astype(int))]


def heading(length: float) -> str:
    """A length over a column."""
    return format_length(length)
