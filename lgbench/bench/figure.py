"""Draw how near every contender comes to the device's own copy rate, which no scan can beat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter

from lgbench.bench.rows import Row
from lgbench.bench.setting import CONTENDERS
from lgbench.report.style import GREY, compose, line_styles, looks, new_figure

ROW_IN = 0.42
"""Height of a case, inches."""


def share_figure(found: Sequence[Row], shared: Mapping[str, Any]) -> Figure | None:
    """Share of the copy rate, a line a case and a panel a part, of the scans or else of the training steps.

    Returns:
        None if no row has a share.
    """
    rows = [row for row in found if row["copy_share"] is not None and row["status"] == "ok"]
    scans = [row for row in rows if row["measure"] == "scan"]
    rows = scans or rows
    if not rows:
        return None
    cases, parts = (list(dict.fromkeys(row[name] for row in rows)) for name in ("case", "part"))
    shares = [row["copy_share"] for row in rows]
    present = [name for name in CONTENDERS if any(row["contender"] == name for row in rows)]
    with looks():
        figure, axes = new_figure(len(parts))
        for panel, part in zip(axes, parts, strict=True):
            _draw(panel, [row for row in rows if row["part"] == part], cases)
            panel.set_xlim(min(shares) / 1.6, max(1.0, *shares) * 1.2)
            panel.set_title(part or "training step", loc="left", fontsize=8.5)
        axes[0].set_yticks(range(len(cases)), labels=cases)
        for panel in axes[1:]:
            panel.set_yticks(range(len(cases)), labels=[])
        handles = [Line2D([], [], label=name, **_style(name, "eager")) for name in present]
        if any(row["mode"] == "graph" for row in rows):
            handles.append(Line2D([], [], label="hollow: replayed from a graph", **_style(None, "graph")))
        compose(
            figure,
            axes,
            height_in=ROW_IN * len(cases) + 0.2,
            footer=_footer(rows, shared),
            handles=handles,
            left_in=0.35 + 0.055 * max(map(len, cases)),
            right_in=0.25,
            top_in=0.2,
        )
    return figure


def _draw(axes: Axes, rows: Sequence[Row], cases: Sequence[str]) -> None:
    for row in rows:
        axes.plot(
            row["copy_share"], cases.index(row["case"]), **_style(row["contender"], row["mode"]), zorder=3
        )
    axes.set_xscale("log")
    axes.set_ylim(len(cases) - 0.5, -0.5)
    axes.axvline(1, color=GREY, linewidth=0.8, linestyle=":")
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.6)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share * 100:g} %"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("share of the measured copy rate")


def _style(contender: str | None, mode: str) -> dict[str, Any]:
    """Marker and colour of a contender; graphs are hollow."""
    style = (
        line_styles(CONTENDERS, {name: name for name in CONTENDERS})[contender]
        if contender
        else {"color": GREY, "marker": "o"}
    )
    hollow = {"markerfacecolor": "white", "markeredgecolor": style["color"], "markeredgewidth": 1.2}
    return style | {"linestyle": "none", "markersize": 6} | (hollow if mode == "graph" else {})


def _footer(rows: Sequence[Row], shared: Mapping[str, Any]) -> list[str]:
    named = (
        "batch × channels × length × states"
        if rows[0]["measure"] == "scan"
        else "one step of the real trainer"
    )
    return [
        f"{shared['device']}: a copy reads and writes {shared['copy_rate'] / 1e9:,.1f} GB/s.",
        f"Lines: {named}.",
        "Share: the time of the least possible memory traffic at that rate over the median time.",
    ]
