"""What a cell costs beyond its own time: leases, looks at the folder, rows and lines of progress."""

import time

import pytest

from lgbench.launchers import local
from lgbench.run.measure import unmeasured_row

pytestmark = pytest.mark.benchmark
CELLS = 500
LIMIT_S = 0.050


def test_a_cell_that_takes_no_time_costs_at_most_50_ms(toy_cells, toy_task, run_toy, monkeypatch, capsys):
    """500 cells of 500 trainings that have their weights already and measure nothing."""
    cells = toy_cells("vanilla", seeds=range(CELLS))

    def nothing(cell, task, items, store, *_):
        return [unmeasured_row(cell, task, store, "diverged", "measures nothing")]

    monkeypatch.setattr(local, "run_cell", nothing)
    monkeypatch.setattr(local.Turns, "trained", lambda self, training, steps: True)
    began, used = time.perf_counter(), time.process_time()
    outcome, store = run_toy(cells)
    each, cpu = ((now - then) / CELLS for now, then in (
        (time.perf_counter(), began), (time.process_time(), used)
    ))  # fmt: skip
    assert outcome.finished == CELLS and len(list(store.root.rglob("*.parquet"))) == CELLS
    with capsys.disabled():
        print(f"\n    overhead of a local cell: {1000 * each:.1f} ms, {1000 * cpu:.1f} ms of them on the CPU")
    assert each <= LIMIT_S
