"""One look for all figures: sober, readable in grey, as wide as the page of a paper."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

from lgbench.errors import UserError
from lgbench.report.wording import format_length
from lgbench.safe_text import for_plot, plain
from lgbench.stats.ranking import ROLES
from lgbench.store import atomic_file

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
COLOURS += ("#882255", "#999933", "#332288", "#AA4499")
"""Okabe and Ito's palette without black and yellow, and four of Paul Tol's: for colour-blind readers."""
MARKERS = ("^", "D", "v", "P", "X", "<", ">", "p", "h", "*")
DASHES = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (4, 1.2, 1, 1.2)), (0, (7, 2)), (0, (2, 1)))
"""Of the variants of one method: its parameters, sizes, training lengths."""
ROLE_LOOKS = {"baseline": ("#000000", "o"), "control": ("#7A7A7A", "s")}
KINDS = ("png", "pdf", "svg")
"""Files that a figure is saved as."""
GREY = "#555555"
SHADE = "#EDEDED"
WARNING = "#B00020"

Styles = dict[str, dict[str, Any]]
"""Name of a line → what matplotlib is given to draw it."""

_LINE_IN = 0.15
_CHARACTERS_PER_IN = 19.5
"""Of the footer's text, 7 points."""
_NOT_LOOKS = {"backend", "backend_fallback", "interactive", "toolbar", "timezone"}
_asked: ContextVar[dict[str, Any]] = ContextVar("asked", default={})  # noqa: B039, never changed in place
_RC = {
    "figure.figsize": (7.0, 4.0),  # the text width of a two-column page
    "font.family": "sans-serif",  # DejaVu Sans, in an SVG Verdana, which is as wide, where it is not there
    "svg.fonttype": "none",
    "font.size": 8,
    "axes.labelsize": 8.5,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "axes.linewidth": 0.7,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "xtick.minor.width": 0.5,
    "xtick.major.size": 3.5,
    "ytick.major.size": 3.5,
    "xtick.minor.size": 2,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    "pdf.fonttype": 42,
    "svg.hashsalt": "lgbench",
    "text.parse_math": False,
}


def looks() -> AbstractContextManager[None]:
    """The settings in which figures are drawn and saved; nothing of the caller's matplotlib changes.

    They start from matplotlib's defaults, whatever a `matplotlibrc` of the user's says; what `styled` has
    comes last.
    """
    return matplotlib.rc_context(_settings())


@cache
def _defaults() -> dict[str, Any]:
    defaults = {k: v for k, v in matplotlib.rcParamsDefault.items() if k not in _NOT_LOOKS}
    import seaborn as sns  # takes half a second, and tables do without

    return defaults | sns.axes_style("ticks") | _RC


def _settings() -> dict[str, Any]:
    return _defaults() | _asked.get()


@contextmanager
def styled(path: Path | None) -> Iterator[None]:
    """Draw figures within the block with a style file of the user's; with None nothing changes.

    Args:
        path: in the format of matplotlib's style sheets; the width in `figure.figsize` becomes that of all
            figures, 3.3 for a column of a two-column page.

    Raises:
        UserError: the file does not exist or is no style sheet.
    """
    if path is None:
        yield
        return
    if not path.is_file():
        raise UserError(f"no style file '{path}'. A file with the line 'figure.figsize: 3.3, 2.5' is one")
    asked = matplotlib.rc_params_from_file(path, use_default_template=False)
    if not asked:
        raise UserError(f"'{path}' sets nothing: expected lines of a matplotlib style, 'font.size: 7'")
    token = _asked.set({k: v for k, v in asked.items() if k not in _NOT_LOOKS})
    try:
        yield
    finally:
        _asked.reset(token)


def width_in() -> float:
    """Width of figures, inches."""
    return float(_settings()["figure.figsize"][0])


def line_styles(labels: Sequence[str], series: Mapping[str, str]) -> Styles:
    """Colour, marker and dashes of each series.

    A method keeps its colour and marker in every figure of a report: they follow from its place among the
    names of all methods. The baseline is black, the control grey. Series of one method differ in dashes, the
    first of them is solid.

    Args:
        labels: of all methods of the results, parameters in brackets included.
        series: name of a line → its label, of one figure.
    """
    methods = sorted({_method(label) for label in labels} - {*ROLES.values()})
    looks_of = {name: (COLOURS[k % 10], MARKERS[(k + k // 10) % 10]) for k, name in enumerate(methods)}
    looks_of |= {ROLES[role]: look for role, look in ROLE_LOOKS.items()}
    styles: Styles = {}
    variants: dict[str, int] = {}
    for name, label in series.items():
        colour, marker = looks_of[_method(label)]
        nth = variants[_method(label)] = variants.get(_method(label), -1) + 1
        styles[name] = {
            "color": colour,
            "marker": marker,
            "linestyle": DASHES[nth % len(DASHES)],
            "markeredgecolor": "white",
            "markeredgewidth": 0.5,
        }
    return styles


def line_style(index: int) -> dict[str, Any]:
    """Colour, marker and dashes of the `index`-th line, where lines are lengths or pictures, not methods."""
    look: dict[str, Any] = {"color": COLOURS[index % 10], "marker": MARKERS[(index + index // 10) % 10]}
    return look | {"linestyle": DASHES[index // 10 % 6], "markeredgecolor": "white", "markeredgewidth": 0.5}


def _method(label: str) -> str:
    return label.partition("[")[0]


def compose(
    figure: Figure,
    axes: Sequence[Axes],
    *,
    height_in: float,
    footer: Iterable[str],
    notice: str = "",
    handles: Sequence[Any] = (),
    left_in: float = 0.62,
    right_in: float = 0.1,
    top_in: float = 0.0,
    bottom_in: float = 0.48,
    gap_in: float = 0.2,
    columns: int = 0,
    row_gap_in: float = 0.3,
) -> None:
    """Lay out a figure: legend on top, panels side by side, a footer in grey, the notice on the data in red.

    Args:
        figure: made by `new_figure`; its height is set here.
        axes: panels, from left to right and from top to bottom; each is `height_in` inches high.
        height_in: height of the panels, inches.
        footer: sentences in small print.
        notice: what a reader must know about the data; empty for nothing.
        handles: what the legend explains.
        left_in, right_in, top_in, bottom_in: room for tick labels and texts around the panels, inches.
        gap_in: room between panels, inches.
        columns: panels side by side before the next row of them; 0 for all.
        row_gap_in: room between rows, inches.
    """
    columns = columns or len(axes)
    num_rows = -(-len(axes) // columns)
    for shown in figure.findobj(Text):
        shown.set_text(for_plot(shown.get_text()))
    for handle in handles:
        handle.set_label(for_plot(handle.get_label()))
    panels_in = num_rows * height_in + (num_rows - 1) * row_gap_in
    per_line = int(width_in() * _CHARACTERS_PER_IN)
    lines = textwrap.wrap(plain(" ".join(filter(None, footer))), per_line)
    warning = textwrap.wrap(plain(notice), int(per_line * 0.9))
    legend = _legend(figure, handles) if handles else None
    legend_in = legend.get_window_extent().height / figure.dpi + 0.2 if legend else 0.1
    footer_in = _LINE_IN * (len(lines) + len(warning)) + 0.08
    total = legend_in + top_in + panels_in + bottom_in + footer_in
    figure.set_size_inches(width_in(), total)
    if legend:
        legend.set_bbox_to_anchor((left_in / width_in(), 1 - 0.05 / total))
    each = (width_in() - left_in - right_in - gap_in * (columns - 1)) / columns
    for index, panel in enumerate(axes):
        row, column = divmod(index, columns)
        x = left_in + column * (each + gap_in)
        y = footer_in + bottom_in + (num_rows - 1 - row) * (height_in + row_gap_in)
        panel.set_position((x / width_in(), y / total, each / width_in(), height_in / total))
    for index, text in enumerate([*warning, *lines]):
        red = index < len(warning)
        figure.text(
            0.08 / width_in(),
            (footer_in - _LINE_IN * (index + 1)) / total,
            text,
            fontsize=7,
            color=WARNING if red else GREY,
            weight="bold" if red else "normal",
            va="bottom",
        )


def _legend(figure: Figure, handles: Sequence[Any]) -> Any:
    """A legend on top with as many columns as fit."""
    for columns in range(min(len(handles), 5), 0, -1):
        legend = figure.legend(
            handles=handles,
            ncol=columns,
            loc="upper left",
            frameon=False,
            borderaxespad=0,
            borderpad=0.1,
            columnspacing=1.6,
            handlelength=2.2,
        )
        if columns == 1 or legend.get_window_extent().width / figure.dpi <= width_in() - 0.8:
            return legend
        legend.remove()
    raise AssertionError("a legend without handles")


def new_figure(panels: int = 1) -> tuple[Figure, list[Axes]]:
    """An empty figure of the page's width that belongs to no window, and its panels."""
    figure = Figure(figsize=(width_in(), 4), dpi=200)
    FigureCanvasAgg(figure)
    axes = [figure.add_axes((0.1 + 0.8 * i / panels, 0.2, 0.7 / panels, 0.6)) for i in range(panels)]
    for panel in axes:
        panel.spines[["top", "right"]].set_visible(False)
    return figure, axes


def length_axis(axes: Axes, lengths: Sequence[int], label: str, unit: str = "tokens") -> None:
    """A log2 axis over lengths with a label at every second octave and the last, at each if they are few.

    A few lengths that are no powers of two are labelled themselves.
    """
    low, high = min(lengths), max(lengths)
    axes.set_xscale("log", base=2)
    axes.set_xlim(low / 2**0.35, high * 2**0.35)
    octaves = range(math.floor(math.log2(low)), math.ceil(math.log2(high)) + 1)
    inside = [2**k for k in octaves if low <= 2**k <= high]
    step = 1 if len(inside) <= 7 else 2
    labelled = (
        sorted({*inside[::step], inside[-1]} if len(inside) <= 17 else inside[::3]) if inside else [low, high]
    )
    if len({*lengths}) <= 9 and not {*lengths} <= {*inside}:
        labelled = inside = sorted({*lengths})
    axes.xaxis.set_major_locator(FixedLocator(labelled))
    axes.xaxis.set_minor_locator(FixedLocator(inside))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda length, _: format_length(length, unit)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(label)


def save(figure: Figure, stem: Path, kinds: Sequence[str] = KINDS) -> list[Path]:
    """Write STEM.png (200 dpi), STEM.pdf and STEM.svg, each atomically; the same figure gives the same bytes.

    Args:
        figure: made by `new_figure`.
        stem: path without a suffix.
        kinds: which ones of `KINDS`.

    Raises:
        UserError: the folder cannot be written.
    """
    undated = {
        "png": {"Software": None},
        "pdf": {"CreationDate": None, "Producer": None},
        "svg": {"Date": None},
    }
    paths = []
    for kind in kinds:
        path = stem.with_name(f"{stem.name}.{kind}")
        with atomic_file(path) as temporary, looks():
            figure.savefig(temporary, format=kind, dpi=200, metadata=undated[kind])
        paths.append(path)
    return paths
