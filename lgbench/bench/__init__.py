"""`lgbench bench`: time scans, training steps, streams and evaluation here, with every back end installed.

Contenders of one case take turns (A B A B …), so that a slow minute of the machine meets all of them; what is
kept are medians. Whatever could not be measured is a row with its reason.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from lgbench.bench import rows
from lgbench.bench.figure import share_figure
from lgbench.bench.setting import Setting, choose_contenders
from lgbench.bench.tables import measure_table, unmeasured_lines
from lgbench.bench.timing import copy_samples
from lgbench.errors import UserError
from lgbench.report.style import save
from lgbench.run.device import choose_device
from lgbench.safe_text import for_rich
from lgbench.store import Store

DEVICES = ("auto", "cpu", "cuda")
MEASURES = ("scan", "step", "stream", "curve")
DEFAULT_REPEATS = 20
BUDGET_S, THOROUGH_S = 1.0, 10.0
"""Seconds after which a contender of a case sits out the remaining rounds; the second where the number of
samples was asked for."""


def run_bench(
    what: Sequence[str],
    backends: Sequence[str],
    *,
    device: str,
    repeats: int | None,
    out: Path,
    console: Console,
) -> bool:
    """Measure, print tables, and write `OUT/bench-TIME.parquet` (after every measure) and a figure.

    Args:
        what: measures, of `MEASURES`; empty means all.
        backends: contenders, see `lgbench.bench.setting`; empty means all but the sequential reference.
        device: "auto", "cpu" or "cuda".
        repeats: samples of each contender, fewer where one takes longer than `THOROUGH_S` in all; if not
            given, 20 within `BUDGET_S`.
        out: folder, made if it is not there.
        console: where tables go.

    Returns:
        Whether every measure has a number.

    Raises:
        UserError: an unknown measure or contender, a device that is not there, a folder that cannot be
            written.
    """
    for name in what:
        if name not in MEASURES:
            raise UserError(f"lgbench bench measures {', '.join(MEASURES)}, not '{name}'")
    if device not in DEVICES:
        raise UserError(f"--device is one of {', '.join(DEVICES)}, not '{device}'")
    contenders = choose_contenders(backends)
    place = choose_device(device)
    Store(out).check_writable()
    copies = copy_samples(place, repeats or DEFAULT_REPEATS)
    began = time.perf_counter()

    def say(case: str) -> None:
        console.print(for_rich(f"  {time.perf_counter() - began:4.0f} s  {case}"))

    budget = THOROUGH_S if repeats else BUDGET_S
    setting = Setting(place, contenders, repeats or DEFAULT_REPEATS, budget, copies.rate, say)
    facts = rows.facts(place, copies.rate)
    stem = out / f"bench-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    console.print(for_rich(f"{facts['device']}: copies {copies.rate / 1e9:,.1f} GB/s, read and written."))
    found = [
        rows.row(measure="copy", contender="copy", bytes_moved=copies.size, **rows.timed(copies.samples))
    ]
    complete = True
    for measure in dict.fromkeys(what or MEASURES):
        console.print(f"{measure} …")
        measured = _measure(measure, setting)
        complete &= any(row["status"] == "ok" for row in measured)
        found += measured
        rows.write(found, facts, stem.with_suffix(".parquet"))
        _show(measure, measured, console)
    figure = share_figure(found, facts)
    if figure is not None:
        save(figure, stem)
    console.print(for_rich(f"Rows: {stem.with_suffix('.parquet')}"), soft_wrap=True)
    drawn = f"Figure: {stem.with_suffix('.png')}" if figure else "No figure: no row has a share."
    console.print(for_rich(drawn), soft_wrap=True)
    return complete


def _show(measure: str, measured: Sequence[rows.Row], console: Console) -> None:
    if any(row["median_ms"] is not None for row in measured):
        console.print(measure_table(measure, measured))
    for line in unmeasured_lines(measured):
        console.print(for_rich(line), soft_wrap=True)


def _measure(measure: str, setting: Setting) -> list[rows.Row]:
    """Ranked rows of one measure; one that raises or finds nothing is a row that says so."""
    try:
        found = importlib.import_module(f"lgbench.bench.{measure}").measure(setting)
    except UserError:
        raise
    except Exception as error:  # the other measures go on
        return [rows.row(measure=measure, **rows.failure(error))]
    return rows.rank(found) or [
        rows.row(measure=measure, status="failed", reason="no back end asked for takes part")
    ]
