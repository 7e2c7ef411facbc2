"""Turn curves into charts that answer to pointer, touch and keyboard; needs the extra `report`.

Charts are Vega-Lite, made with altair; the page carries the library once. Two parameters let the page talk to
a chart: `hidden`, names of lines that the legend has switched off, and `focus`, the line whose band is shown.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import numpy as np
import pandas as pd

from lgbench.report.curves import Board
from lgbench.report.style import Styles
from lgbench.report.vertical import X_COLUMN, vertical_range
from lgbench.report.wording import format_value
from lgbench.stats.ranking import ROLES

NEEDED = ("altair", "vl_convert", "itables")
SHAPES = {
    "o": "circle",
    "s": "square",
    "^": "triangle-up",
    "D": "diamond",
    "v": "triangle-down",
    "P": "cross",
    "X": "M-1,-.6L-.6,-1L0,-.4L.6,-1L1,-.6L.4,0L1,.6L.6,1L0,.4L-.6,1L-1,.6L-.4,0Z",
    "<": "triangle-left",
    ">": "triangle-right",
    "p": "M0,-1L.95,-.31L.59,.81L-.59,.81L-.95,-.31Z",
    "h": "M0,-1L.87,-.5L.87,.5L0,1L-.87,.5L-.87,-.5Z",
    "*": "M0,-1L.24,-.33L.95,-.31L.38,.13L.59,.81L0,.4L-.59,.81L-.38,.13L-.95,-.31L-.24,-.33Z",
}
"""Marker of matplotlib → symbol of Vega."""
_SHORT = (
    "datum.value >= 1048576 && datum.value % 524288 == 0 ? datum.value / 1048576 + 'M' : "
    "datum.value >= 1024 && datum.value % 512 == 0 && datum.value % 1000 != 0 ? datum.value / 1024 + 'K' : "
    "format(datum.value, ',')"
)
"""Lengths as `lgbench.report.wording.format_length` writes them."""


def is_available() -> bool:
    """Whether the extra `report` is installed."""
    return all(importlib.util.find_spec(name) for name in NEEDED)


def libraries() -> dict[str, str]:
    """What charts and tables need, to be written into a page: `charts`, `tables`, `tables_css`."""
    import vl_convert

    html = files("itables") / "html"
    return {
        "charts": vl_convert.javascript_bundle().replace("</script", "<\\/script"),
        "tables": json.dumps((html / "dt_bundle.js").read_text(encoding="utf-8")).replace("</", "<\\/"),
        "tables_css": (html / "dt_bundle.css").read_text(encoding="utf-8"),
    }


def curve_charts(board: Board, axis: str) -> list[dict[str, Any]]:
    """Vega-Lite charts of a board along an axis: the metric, and beside it differences to the baseline.

    A chart can be drawn with a logarithmic or linear axis in both directions where `usermeta` says so.
    """
    curve, x = board.curve(axis), X_COLUMN[axis]
    limits = vertical_range(curve, board.higher_is_better, board.combine)
    unit = "queries" if axis == "queries" else board.length_unit
    ends = float(curve[x].min()), float(curve[x].max())
    metric = f"{board.metric} ({board.direction})"
    charts = [
        _chart(curve, x, board.styles, metric, unit, ends, (limits.bottom, limits.top), limits.is_log, True)
    ]
    beside = board.beside if axis == "context" else pd.DataFrame()
    if not beside.empty:
        drawn = beside[["value", "low", "high"]].clip(-1, 1)
        domain = min(-0.05, drawn.min().min()), max(0.05, drawn.max().max())
        title = f"score minus that of {ROLES['baseline']}"
        charts.append(_chart(beside, x, board.styles, title, unit, ends, domain, False, False))
    return charts


def _chart(
    points: pd.DataFrame,
    x: str,
    styles: Styles,
    title: str,
    unit: str,
    range_x: tuple[float, float],
    domain: tuple[float, float],
    is_log: bool,
    is_absolute: bool,
) -> dict[str, Any]:
    """One chart as a dictionary; absolute ones have the training range and chance, others a line at zero."""
    import altair as alt

    names = [name for name in styles if name in set(points["series"])]
    low, high = range_x[0] / 2**0.2, range_x[1] * 2**0.2
    lengths = sorted({*points[x].astype(float)})
    ticks = lengths[:: -(-len(lengths) // 9)]
    x_axis = alt.X(
        "x:Q",
        title=unit,
        scale=alt.Scale(type="log", base=2, domain=[low, high], nice=False),
        axis=alt.Axis(values=ticks, labelExpr=_SHORT, grid=False, labelOverlap=True),
    )
    y_axis = alt.Y(
        "value:Q",
        title=title,
        scale=alt.Scale(type="log" if is_log else "linear", domain=list(domain), zero=False, nice=False),
        axis=alt.Axis(grid=False, tickCount=6, minExtent=42),
    )
    colour = alt.Color("series:N", legend=None).scale(
        domain=names, range=[styles[name]["color"] for name in names]
    )
    dash = alt.StrokeDash("series:N", legend=None).scale(
        domain=names, range=[_dashes(styles[name]) for name in names]
    )
    shape = alt.Shape("series:N", legend=None).scale(
        domain=names, range=[SHAPES[styles[name]["marker"]] for name in names]
    )
    in_focus = "datum.series === focus"
    base = alt.Chart(alt.Data(name="points")).transform_filter("indexof(hidden, datum.series) < 0")
    layers = _references(points, x, is_absolute, x_axis, y_axis)
    layers += [
        base.mark_area(clip=True).encode(
            x_axis, alt.Y("low:Q").title(title), alt.Y2("high:Q"), color=colour,
            opacity=alt.when(in_focus).then(alt.value(0.2)).otherwise(alt.value(0)),
        ),
        base.mark_line(clip=True).encode(
            x_axis, y_axis, color=colour, strokeDash=dash,
            strokeWidth=alt.when(in_focus).then(alt.value(3)).otherwise(alt.value(1.6)),
            opacity=alt.when(f"focus === '' || {in_focus}").then(alt.value(1)).otherwise(alt.value(0.35)),
        ),
        base.mark_point(filled=True, opacity=1, size=55, clip=True).encode(
            x_axis, y_axis, color=colour, shape=shape,
            tooltip=[alt.Tooltip(name, type="nominal", title=words) for name, words in _TIPS.items()],
        ),
    ]  # fmt: skip
    chart = (
        alt.layer(*layers, data=alt.Data(name="points"))
        .add_params(alt.param(name="hidden", value=[]), alt.param(name="focus", value=""))
        .properties(width="container", height=300 if is_absolute else 190)
        .configure(font="system-ui, sans-serif")
        .configure_view(stroke=None)
        .configure_axis(labelFontSize=12, titleFontSize=12, titleFontWeight="normal", labelColor="#1a1a1a")
    )
    spec: dict[str, Any] = chart.to_dict()
    spec["datasets"] = {"points": _records(points, x)}
    spec["usermeta"] = {"positive": bool((points[["value", "low"]].min() > 0).all()), "log": is_log}
    return spec


_TIPS = {
    "series": "method",
    "at": "length",
    "shown": "value",
    "interval": "95 % interval",
    "n": "measured on",
}


def _records(points: pd.DataFrame, x: str) -> list[dict[str, Any]]:
    """Points for a chart, with their texts; numbers as short as a screen can show."""
    records = []
    for row in points.to_dict("records"):
        ends = [float(row[name]) for name in ("low", "high")]
        value = float(row["value"])
        n = f"{row['num_seeds']:.0f} seed{'s' * (row['num_seeds'] > 1)}"
        n += f", {row['num_items']:,.0f} items" if "num_items" in row else ""
        record = {
            "series": row["series"],
            "x": float(row[x]),
            "at": f"{row[x]:,.0f}",
            "value": _short(value),
            "n": n,
        }
        record |= {"low": _short(ends[0]), "high": _short(ends[1]), "shown": format_value(value)}
        record["interval"] = f"{format_value(ends[0], value)} to {format_value(ends[1], value)}"
        records.append(record)
    return records


def _short(value: float) -> float | None:
    return float(f"{value:.5g}") if np.isfinite(value) else None


def _references(points: pd.DataFrame, x: str, is_absolute: bool, x_axis: Any, y_axis: Any) -> list[Any]:
    """Behind the lines: the training range and chance, or a line at zero."""
    import altair as alt

    if not is_absolute:
        zero = alt.Data(values=[{"value": 0}])
        return [alt.Chart(zero).mark_rule(color="black", strokeWidth=1.2).encode(alt.Y("value:Q"))]
    layers = []
    if x == "eval_length" and "train_high" in points:
        ends = points["train_low"].min(), points["train_high"].mode()[0]
        ends = [float(np.clip(end, points[x].min(), points[x].max())) for end in ends]
        trained = alt.Data(values=[{"x": ends[0], "x2": ends[1]}])
        layers.append(alt.Chart(trained).mark_rect(color="#EDEDED").encode(x_axis, alt.X2("x2:Q")))
    chance = points.groupby(x)["chance"].mean()
    line = alt.Data(values=[{"x": float(at), "value": float(value)} for at, value in chance.items()])
    dashed = alt.Chart(line).mark_line(color="#555", strokeDash=[6, 4], strokeWidth=1, clip=True)
    return [*layers, dashed.encode(x_axis, y_axis)]


def _dashes(style: Mapping[str, Any]) -> list[float]:
    """Dashes of a style in pixels; none of a solid line."""
    dashes = style["linestyle"]
    return [1, 0] if dashes == "-" else [3 * length for length in dashes[1]]


_OUTLINES = {
    "circle": "M-1,0a1,1 0 1,0 2,0a1,1 0 1,0 -2,0Z",
    "square": "M-.9,-.9H.9V.9H-.9Z",
    "triangle-up": "M0,-1L1,.8H-1Z",
    "triangle-down": "M0,1L1,-.8H-1Z",
    "triangle-left": "M-1,0L.8,-1V1Z",
    "triangle-right": "M1,0L-.8,-1V1Z",
    "diamond": "M0,-1.1L1.1,0L0,1.1L-1.1,0Z",
    "cross": "M-.4,-1.1H.4V-.4H1.1V.4H.4V1.1H-.4V.4H-1.1V-.4H-.4Z",
}


def swatch(style: Mapping[str, Any]) -> dict[str, str]:
    """A line of a legend as SVG: its `colour`, `dashes` and the outline of its marker (`path`)."""
    shape = SHAPES[style["marker"]]
    dashes = " ".join(f"{length:g}" for length in _dashes(style))
    return {"colour": style["color"], "dashes": dashes, "path": _OUTLINES.get(shape, shape)}
