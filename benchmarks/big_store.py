"""Make a large results folder of made-up curves, and measure what reads it.

    python benchmarks/big_store.py FOLDER --tasks 10 --methods 50 --seeds 20      10,000 cells, 300,000 rows
    python benchmarks/big_store.py FOLDER --measure                               seconds and memory

Files are written by the store's own code. Each has 30 lengths of 300 items, and a recipe of the usual size.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lgbench.store import SCHEMA, Store
from lgbench.store.schema import as_texts

TRAIN_LENGTH = 256
NUM_LENGTHS, NUM_ITEMS = 30, 300
FIRST = ("vanilla", "last_window")


def lengths_of(num_lengths: int) -> np.ndarray:
    """Lengths from L_train / 8 to 64 × L_train, equally far apart in octaves."""
    return np.unique(np.round(TRAIN_LENGTH * 2 ** np.linspace(-3, 6, num_lengths)).astype(np.int64))


def template(num_lengths: int, num_items: int) -> pa.Table:
    """Rows of one cell, of which `make_store` replaces what differs between cells."""
    lengths = lengths_of(num_lengths)
    recipe = {
        "eval_lengths": lengths.tolist(),
        "query_grid": [],
        "eval_items": num_items,
        "train_steps": 1000,
    }
    recipe |= {f"number_{k}": k for k in range(20)}
    shared: dict[str, Any] = dict.fromkeys(SCHEMA.names) | {
        "status": "ok", "reason": "", "task_params": as_texts({"symbols": 8}), "task_identity": "v1",
        "horizon": 32.0, "learned": 0.25, "context_means": "longer", "data_source": "made up",
        "data_fingerprint": "f00d", "notice": "", "method_params": {}, "method_identity": "v1",
        "backbone": "mamba", "backbone_params": as_texts({"d_state": 16}), "backbone_identity": "v1",
        "preset": "small", "recipe": as_texts(recipe), "d_model": 64, "num_layers": 2, "d_state": 16,
        "num_parameters": 20412, "train_length": TRAIN_LENGTH, "train_low": 1, "train_high": TRAIN_LENGTH,
        "length_unit": "tokens", "train_steps": 1000, "step": 1000, "batch_size": 64, "lm_weight": 0.0,
        "learning_rate": 3e-4, "protocol": "clean", "needs_length": False, "apply_in_decode": True,
        "axis": "context", "num_queries": 1, "num_fitted": 0, "calibration_tokens": 0,
        "calibration_wall_s": 0.0, "state_bytes": 4096, "metric": "score", "higher_is_better": True,
        "best": 1.0, "chance": 0.0, "references": {"chance": 0.0}, "combine": "mean", "num_items": num_items,
        "eval_draw": 0, "calibration_format": 0, "items_hash": "items", "shared_prefix": True,
        "scan_backend": "torch", "device": "CPU", "train_scan_backend": "torch", "train_loss": 0.2,
        "train_wall_s": 12.0, "train_tokens_per_s": 1e6, "eval_wall_s": 2.0, "eval_tokens_per_s": 2e6,
        "warm_tokens_per_s": 2e6, "peak_bytes": 2**30, "package_version": "0.1.0", "commit": "abc1234",
    }  # fmt: skip
    rows = [shared | {"eval_length": int(n), "context_tokens": int(n)} for n in lengths]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def make_store(
    root: Path,
    tasks: int,
    methods: int,
    seeds: int,
    num_lengths: int = NUM_LENGTHS,
    num_items: int = NUM_ITEMS,
) -> int:
    """Write tasks × methods × seeds cells; returns how many.

    The first method never loses with the length, each further one earlier; items and seeds vary.
    """
    store, base = Store(root), template(num_lengths, num_items)
    lengths, names = np.array(base["eval_length"]), [*FIRST, *(f"method_{k:04d}" for k in range(methods))]
    octaves = np.maximum(0, np.log2(lengths / TRAIN_LENGTH))[:, None]
    environment = store.write_environment({"made": "up"})
    for task in range(tasks):
        draw = np.random.default_rng(task)
        noise = draw.normal(0, 0.1, num_items)
        for method in range(methods):
            for seed in range(seeds):
                slope = 0.15 * method / methods + 0.01 * draw.normal()
                values = 0.9 - slope * octaves + noise + 0.1 * draw.normal(size=(len(lengths), num_items))
                values = np.clip(values, 0, 1).astype(np.float32)
                cell = hashlib.sha256(f"{task} {method} {seed}".encode()).hexdigest()[:16]
                told = {"task": f"task_{task}", "method": names[method], "label": names[method],
                        "cell": cell, "training": cell, "seed": seed, "environment": environment,
                        "created_at": f"2026-01-01T00:{seed // 60:02d}:{seed % 60:02d}+00:00"}  # fmt: skip
                store.write_table(told["task"], cell, _filled(base, told, values))
    store.manifest.save()
    return tasks * methods * seeds


def _filled(base: pa.Table, told: dict[str, Any], values: np.ndarray) -> pa.Table:
    """The template with one value a column of `told`, and with `values` of the items."""
    num, items = values.shape
    means = values.mean(axis=1, dtype=np.float64)
    columns: dict[str, pa.Array] = {
        name: pa.repeat(pa.scalar(value, SCHEMA.field(name).type), num) for name, value in told.items()
    }
    offsets = pa.array(np.arange(num + 1) * items, pa.int32())
    columns["item_values"] = pa.ListArray.from_arrays(offsets, pa.array(values.ravel()))
    columns |= {"value": pa.array(means), "ci_low": pa.array(means - 0.01), "ci_high": pa.array(means + 0.01)}
    columns["std"] = pa.array(values.std(axis=1, ddof=1).astype(np.float64))
    for name, column in columns.items():
        base = base.set_column(SCHEMA.get_field_index(name), SCHEMA.field(name), column)
    return base


def measure(root: Path) -> None:
    """Print wall and processor seconds and memory of each command, each in a process of its own."""
    board, page = root.parent / f"{root.name}.md", root.parent / f"{root.name}-report"
    commands = {"leaderboard": ["leaderboard", "--out", str(board)], "report": ["report", "--out", str(page)]}
    for name in ("leaderboard", "leaderboard", "report"):
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "lgbench", *commands[name], "--results", str(root)],
            stdout=subprocess.DEVNULL,
        )
        _, status, used = os.wait4(process.pid, 0)
        wall_s, cpu_s = time.perf_counter() - began, used.ru_utime + used.ru_stime
        print(
            f"{name:<14}{wall_s:7.1f} s, {cpu_s:.1f} s CPU, {used.ru_maxrss / 2**20:.2f} GiB",
            f"exit {status >> 8}",
            sep=", ",
            flush=True,
        )
    cells = [(path.parent.name, path.stem) for path in (root / "rows").rglob("*.parquet")]
    began, before = time.perf_counter(), time.process_time()
    left = Store(root).unfinished(cells)
    wall_s, cpu_s = time.perf_counter() - began, time.process_time() - before
    print(f"{'resume scan':<14}{wall_s:7.2f} s, {cpu_s:.2f} s CPU, {len(cells)} cells, {len(left)} to do")


def main() -> None:
    """Make or measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--measure", action="store_true")
    for name, number in (("tasks", 10), ("methods", 50), ("seeds", 20)):
        parser.add_argument(f"--{name}", type=int, default=number)
    given = parser.parse_args()
    if given.measure:
        measure(given.root)
    else:
        began = time.perf_counter()
        num = make_store(given.root, given.tasks, given.methods, given.seeds)
        print(f"{num} cells in {time.perf_counter() - began:.0f} s")
    print(f"peak memory here {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
