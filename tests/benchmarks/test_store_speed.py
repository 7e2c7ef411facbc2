"""The speed of a training step, of storing a cell, of reading and of a report, as pytest-benchmark sees it.

Compare two commits on one machine: `pytest -m benchmark --benchmark-save NAME`, then `--benchmark-compare`.
"""

import hashlib

import numpy as np
import pytest
import torch

from lgbench.bench import pace
from lgbench.plan.cells import Axes, load_method, load_task, resolve_cells
from lgbench.plan.params import PluginRequest
from lgbench.report.page import build_report
from lgbench.run.train import Trainer
from lgbench.store import SCHEMA, Store, read

pytestmark = pytest.mark.benchmark

NUM_ITEMS = 300
LENGTHS = tuple(2**k for k in range(4, 15))


def rows_of(method, seed):
    """The rows of a cell of 11 lengths with 300 items."""
    cell = hashlib.sha256(f"{method} {seed}".encode()).hexdigest()[:16]
    rng = np.random.default_rng(seed)
    base = dict.fromkeys(SCHEMA.names) | {
        "cell": cell, "training": cell, "status": "ok", "reason": "", "task": "made_up", "task_params": {},
        "data_source": "made up", "data_fingerprint": "f", "notice": "", "method": method,
        "method_params": {}, "label": method, "backbone": "mamba", "preset": "small", "recipe": {},
        "d_model": 16, "num_layers": 2,
        "d_state": 8, "num_parameters": 1, "seed": seed, "train_length": 256, "train_low": 1,
        "train_high": 256,
        "length_unit": "tokens", "train_steps": 9, "step": 9, "batch_size": 8, "lm_weight": 0.0,
        "learning_rate": 1e-3, "protocol": "clean", "needs_length": False, "apply_in_decode": True,
        "axis": "context", "num_queries": 1, "num_fitted": 0, "calibration_tokens": 0,
        "calibration_wall_s": 0.0, "metric": "accuracy", "higher_is_better": True, "best": 1.0, "chance": 0.0,
        "references": {"chance": 0.0}, "combine": "mean", "items_hash": "items", "shared_prefix": True,
        "scan_backend": "torch", "device": "cpu", "train_scan_backend": "torch", "train_loss": 0.1,
        "train_wall_s": 1.0, "train_tokens_per_s": 1.0, "eval_wall_s": 1.0, "eval_tokens_per_s": 1.0,
        "peak_bytes": 1, "environment": "", "package_version": "0.1.0", "commit": "",
        "created_at": "2026-01-01T00:00:00+00:00",
    }  # fmt: skip
    rows = []
    for length in LENGTHS:
        items = rng.random(NUM_ITEMS)
        rows.append(base | {"eval_length": length, "context_tokens": length, "value": float(items.mean()),
                            "num_items": NUM_ITEMS, "item_values": items.tolist()})  # fmt: skip
    return cell, rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """40 cells: 8 methods with 5 seeds."""
    root = tmp_path_factory.mktemp("results")
    for method in range(8):
        for seed in range(5):
            Store(root).write("made_up", *rows_of(f"m{method:02}", seed))
    return root


def test_training_step(benchmark, tmp_path):
    task = load_task(PluginRequest("marked_recall", {}))
    task.prepare(torch.device("cpu"))
    (cell,) = resolve_cells(
        [("marked_recall", task)], [PluginRequest("vanilla", {})], seeds=[0], preset="smoke", axes=Axes(),
        overrides={},
    )  # fmt: skip
    trainer = Trainer(cell.training, task, load_method(cell.method, cell.method_params), tmp_path)
    with pace.one_thread(task.device):
        benchmark.pedantic(trainer.one_step, rounds=20, warmup_rounds=3)
    assert trainer.step == 23 and torch.isfinite(trainer.log[: trainer.step]).all()


def test_store_append(benchmark, tmp_path):
    cell, rows = rows_of("vanilla", 0)
    path = benchmark(Store(tmp_path).write, "made_up", cell, rows)
    assert read([tmp_path]).table.num_rows == len(LENGTHS) and path.exists()


def test_store_read(benchmark, folder):
    reading = benchmark(read, [folder])
    assert reading.table.num_rows == 40 * len(LENGTHS) and not reading.unreadable


def test_report(benchmark, folder, tmp_path):
    made = benchmark.pedantic(build_report, ([folder], tmp_path), rounds=2)
    assert made.html.stat().st_size > 10_000
