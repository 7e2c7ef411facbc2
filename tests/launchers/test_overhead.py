"""What a cell costs beyond its own time: leases, models, weights, looks at the folder, rows, progress."""

import os
import time
from collections import Counter

import pytest

from lgbench.run import measure
from lgbench.run.train import Trainer
from lgbench.store import read

pytestmark = pytest.mark.benchmark
CELLS = int(os.environ.get("LGBENCH_CELLS", "500"))
TRIVIAL = dict(train_steps=1, eval_lengths=(1,), query_grid=(1,), eval_items=2)
CLOCKS = {"wall": time.perf_counter, "CPU": time.process_time}


@pytest.fixture
def own(monkeypatch):
    """Seconds inside of training steps and evaluations, by clock."""
    spent = Counter()

    def timed(work):
        def run(*args, **options):
            began = {name: clock() for name, clock in CLOCKS.items()}
            try:
                return work(*args, **options)
            finally:
                spent.update({name: clock() - began[name] for name, clock in CLOCKS.items()})

        return run

    monkeypatch.setattr(Trainer, "one_step", timed(Trainer.one_step))
    monkeypatch.setattr(measure, "evaluate", timed(measure.evaluate))
    return spent


def test_a_local_cell_costs_at_most_50_ms_beyond_its_own_time(toy_cells, run_toy, own, capsys):
    """Trivial cells, each with a training of one step: model, optimizer, weights and rows are overhead."""
    run_toy(toy_cells("vanilla", seeds=[CELLS], **TRIVIAL), root="warm")  # what is imported at the first use
    own.clear()
    cells = toy_cells("vanilla", seeds=range(CELLS), **TRIVIAL)
    began = {name: clock() for name, clock in CLOCKS.items()}
    outcome, store = run_toy(cells)
    each = {name: 1000 * (clock() - began[name] - own[name]) / CELLS for name, clock in CLOCKS.items()}
    assert outcome.finished == CELLS and len(list(store.root.rglob("*.parquet"))) == CELLS
    with capsys.disabled():
        print(
            f"\n    overhead of a local cell: {each['wall']:.1f} ms, {each['CPU']:.1f} ms of them on the CPU"
        )
    assert each["wall"] <= 50


def test_a_cell_on_ray_costs_at_most_300_ms_beyond_its_own_time(plan, capsys):
    """The same cells as tasks of a cluster that the run starts; its start and end count, too."""
    pytest.importorskip("ray")
    words = (f"--{name.replace('_', '-')} {','.join(map(str, value)) if isinstance(value, tuple) else value}"
             for name, value in TRIVIAL.items())  # fmt: skip
    shared = plan("--method", "vanilla", *" ".join(words).split(), "--seeds", str(CELLS))
    began = time.perf_counter()
    shared.run("rows", "--launcher", "ray[num_cpus=1]")
    took = time.perf_counter() - began
    rows = read([shared.folder / "rows"]).table
    assert len(set(rows["cell"].to_pylist())) == CELLS
    alone = sum(
        dict(zip(*(rows[name].to_pylist() for name in ("cell", "train_wall_s")), strict=True)).values()
    )
    alone += sum(rows["eval_wall_s"].to_pylist())
    each = 1000 * (took - alone) / CELLS
    with capsys.disabled():
        print(f"\n    overhead of a cell on Ray: {each:.0f} ms; its own time: {1000 * alone / CELLS:.0f} ms")
    assert each <= 300
