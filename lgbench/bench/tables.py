"""Show what `lgbench bench` measured: a table a measure, and what has no number in sentences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lgbench.bench.rows import Row
from lgbench.report.wording import NOTHING, format_rate
from lgbench.terminal import Listing


def _milliseconds(value: float) -> str:
    return f"{value:,.4f}" if value < 1 else f"{value:,.3f}" if value < 100 else f"{value:,.0f}"


_COLUMNS: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
    ("case", "case", str),
    ("part", "part", str),
    ("contender", "back end", str),
    ("mode", "mode", str),
    ("num_seeds", "seeds", str),
    ("median_ms", "median ms", _milliseconds),
    ("times_fastest", "× fastest", "{:.2f}".format),
    ("floor_ms", "floor ms", _milliseconds),
    ("copy_share", "of copy rate", "{:.1%}".format),
    ("tokens_per_s", "tokens/s", format_rate),
    ("peak_bytes", "peak GiB", lambda size: f"{size / 2**30:.2f}"),
    ("relative_error", "error", "{:.1e}".format),
    ("repeats", "samples", str),
)
"""Column, heading, and how a value reads."""


def measure_table(measure: str, found: Sequence[Row]) -> Listing:
    """The rows that have a time, wrong ones in red, with the quartiles behind the median; a column that says
    nothing is left out."""
    rows = [row for row in found if row["median_ms"] is not None]
    nothing = (None, "", "eager")
    shown = [column for column in _COLUMNS if any(row[column[0]] not in nothing for row in rows)]
    lines, sections, place = [], set(), [name for name, _, _ in shown].index("median_ms")
    for index, row in enumerate(rows):
        cells = [NOTHING if row[name] is None else say(row[name]) for name, _, say in shown]
        if row["case"] != rows[min(index + 1, len(rows) - 1)]["case"]:
            sections.add(index)
        cells[place] += f" ({_milliseconds(row['low_ms'])}–{_milliseconds(row['high_ms'])})"
        lines.append(cells)
    return Listing(
        headings=[heading for _, heading, _ in shown],
        rows=lines,
        words=[heading for name, heading, _ in shown if name in ("case", "part", "contender", "mode")],
        title=measure,
        styles=["" if row["status"] == "ok" else "red" for row in rows],
        sections=sections,
    )


def unmeasured_lines(found: Sequence[Row]) -> list[str]:
    """What is not ok and why, one line each."""
    lines = []
    for row in found:
        if row["status"] != "ok":
            what = ", ".join(filter(None, (row["case"], row["part"], row["mode"] if row["part"] else "")))
            where = f" ({what})" if what else ""
            lines.append(f"{row['status']}: {row['contender'] or row['measure']}{where}: {row['reason']}")
    return lines
