"""Stores with made-up scores, and a small real run of the toy task."""

import hashlib
import json

import numpy as np
import pytest

from lgbench.store import SCHEMA, Store

LENGTHS = (32, 64, 128, 256)
SETTING = {
    "training": "t", "status": "ok", "reason": "", "task": "toy", "task_params": {}, "data_source": "made up",
    "data_fingerprint": "f00d", "notice": "", "method_params": {}, "backbone": "mamba", "preset": "small",
    "d_model": 16, "num_layers": 2, "d_state": 8, "num_parameters": 1000, "train_length": 64, "train_low": 1,
    "train_high": 64, "length_unit": "tokens", "train_steps": 100, "step": 100, "batch_size": 8,
    "lm_weight": 0.0, "learning_rate": 1e-3, "needs_length": False, "axis": "context", "num_queries": 1,
    "metric": "accuracy", "higher_is_better": True, "best": 1.0, "chance": 0.0, "references": {"chance": 0.0},
    "combine": "mean", "items_hash": "items", "device": "cpu", "recipe": {}, "train_wall_s": 1.0,
    "created_at": "2026-01-01T00:00:00+00:00",
}  # fmt: skip


def put(root, level, *, method="vanilla", seeds=(0, 1, 2), lengths=LENGTHS, num_items=40, **columns):
    """Store cells under `root` in which `level(length, seed)` is the mean score; → `root`.

    Items vary around it, in the same way in every cell.
    """
    noise = np.random.default_rng(0).normal(0, 0.05, num_items)
    noise -= noise.mean()
    for seed in seeds:
        base = dict.fromkeys(SCHEMA.names) | SETTING | {"method": method, "label": method, "seed": seed}
        base |= columns
        key = json.dumps([str(base[name]) for name in SCHEMA.names])
        base["cell"] = hashlib.sha256(key.encode()).hexdigest()[:16]
        rows = []
        for length in lengths:
            items = level(length, seed) + noise
            rows.append(base | {"eval_length": length, "context_tokens": length, "value": float(items.mean())}
                        | {"item_values": items.tolist(), "num_items": num_items})  # fmt: skip
        Store(root).write(base["task"], base["cell"], rows)
    return root


@pytest.fixture(scope="session")
def store():
    """The function `put`."""
    return put


@pytest.fixture
def toy_store(toy_cells, run_toy):
    """A results folder with three cells of the toy task, really run."""
    cells = toy_cells("vanilla", seeds=[0, 1, 2], train_steps=[2], eval_lengths=(1, 16), query_grid=(1, 4))
    outcome, kept = run_toy(cells)
    assert not outcome.failed
    return kept.root
