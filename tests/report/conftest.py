"""Stores with made-up curves, written through the same door as real ones."""

import hashlib
import json

import numpy as np
import pytest

from lgbench.store import SCHEMA, Store

LENGTHS = tuple(2**k for k in range(0, 16, 1))
NOTICE = "The images are procedural glyphs, not Omniglot: do not compare with published numbers."


def rises_then_falls(length, train_length=1024, floor=0.13, collapse=0.02):
    """An error that falls up to the training length and grows by `collapse` with each octave beyond."""
    octaves = np.log2(length / train_length)
    return floor + 0.11 * (1 - 1 / (1 + np.exp(-0.9 * (octaves + 4)))) + collapse * max(0.0, octaves) ** 1.5


def row(**changes):
    """One complete row; `changes` override columns."""
    base = dict.fromkeys(SCHEMA.names) | {
        "cell": "",
        "training": "",
        "status": "ok",
        "reason": "",
        "task": "omniglot",
        "task_params": {},
        "data_source": "omniglot-small",
        "data_fingerprint": "f00d",
        "notice": "",
        "method": "vanilla",
        "method_params": {},
        "label": "vanilla",
        "backbone": "mamba",
        "preset": "small",
        "d_model": 16,
        "num_layers": 8,
        "d_state": 8,
        "num_parameters": 20412,
        "seed": 0,
        "train_length": 1024,
        "train_low": 1,
        "train_high": 1024,
        "length_unit": "tokens",
        "train_steps": 20000,
        "step": 20000,
        "batch_size": 64,
        "lm_weight": 0.0,
        "learning_rate": 3e-4,
        "protocol": "clean",
        "needs_length": False,
        "apply_in_decode": True,
        "axis": "context",
        "eval_length": 1024,
        "context_tokens": 1024,
        "num_queries": 1024,
        "assumed_length": None,
        "num_fitted": 0,
        "calibration_tokens": 0,
        "calibration_wall_s": 0.0,
        "kept_tokens": None,
        "metric": "mse",
        "higher_is_better": False,
        "best": 0.0,
        "chance": 0.241,
        "references": {"chance": 0.241},
        "combine": "mean",
        "value": 0.2,
        "ci_low": 0.19,
        "ci_high": 0.21,
        "std": 0.01,
        "num_items": 1,
        "item_values": [0.2],
        "item_facts": None,
        "items_hash": "items",
        "shared_prefix": True,
        "scan_backend": "torch",
        "device": "CPU",
        "recipe": {},
        "train_scan_backend": "torch",
        "train_loss": 0.2,
        "train_wall_s": 120.0,
        "train_tokens_per_s": 1e6,
        "eval_wall_s": 2.0,
        "eval_tokens_per_s": 2e6,
        "warm_tokens_per_s": 2e6,
        "peak_bytes": 2**30,
        "environment": "env",
        "package_version": "0.1.0",
        "commit": "abc1234",
        "created_at": "2026-01-01T00:00:00Z",
    }
    assert set(changes) <= set(base), set(changes) - set(base)
    return base | changes


def store_curve(root, curve=rises_then_falls, *, lengths=LENGTHS, num_items=40, steps=None, **columns):
    """Store the cell of a method and seed under `root`: `curve(length)` with noise over items; → `root`.

    Curves share the noise of the items; a seed shifts the level by about 2 %. With `steps`, the cell was
    measured after each of them, and the first is half again as high as the curve.
    """
    base = row(**columns)
    base["cell"] = hashlib.sha256(json.dumps([str(value) for value in base.values()]).encode()).hexdigest()[
        :12
    ]
    noise = np.random.default_rng(0).normal(1, 0.2, num_items)
    level = 1 + 0.02 * np.random.default_rng(base["seed"] + 1).normal()
    rows = []
    for step in steps or (base["step"],):
        for length in lengths:
            items = curve(length) * noise / noise.mean() * level
            if steps:
                items = items * (1 + 0.5 * np.sqrt(steps[0] / step))
            rows.append(
                base
                | {"num_queries" if base["axis"] == "queries" else "eval_length": length}
                | {"step": step, "value": float(items.mean()), "num_items": num_items}
                | {"item_values": items.astype(np.float32).tolist()}
            )
    Store(root).write(base["task"], base["cell"], rows)
    return root


def store_items(root, values, facts=None, **columns):
    """Store the cell of a method and seed from `values`, length → values of its items; → `root`.

    With `facts`, length → what is kept of them. Items of an exponential metric are logarithms of its values.
    """
    base = row(**columns)
    key = json.dumps([str(value) for value in base.values()])
    base["cell"] = hashlib.sha256(key.encode()).hexdigest()[:12]
    rows = []
    for length, items in values.items():
        mean = float(np.mean(items))
        value = float(np.exp(mean)) if base["combine"] == "exp_mean" else mean
        rows.append(
            base
            | {"eval_length": length, "context_tokens": length, "value": value}
            | {"item_values": list(items), "num_items": len(items)}
            | {"item_facts": facts[length] if facts else None}
        )
    Store(root).write(base["task"], base["cell"], rows)
    return root


@pytest.fixture(scope="session")
def items():
    """The function `store_items`."""
    return store_items


@pytest.fixture(scope="session")
def make_row():
    """The function `row`."""
    return row


@pytest.fixture(scope="session")
def store():
    """The function `store_curve`."""
    return store_curve


@pytest.fixture(scope="session")
def store_missing():
    """A function that stores a cell without a value, as the runner does: no numbers, one row."""

    def write(root, **columns):
        nothing = ("eval_length", "num_queries", "value", "item_values", "chance", "references", "items_hash")
        base = row(**{"status": "failed", "cell": "no-value"} | dict.fromkeys(nothing) | columns)
        Store(root).write(base["task"], base["cell"], [base])
        return root

    return write


@pytest.fixture
def root(tmp_path):
    """A results folder that does not exist yet."""
    return tmp_path / "results"
