"""Rows of made-up models, as the store gives them."""

import json

import numpy as np
import pandas as pd
import pytest

from lgbench.claims.cells import Cells
from lgbench.claims.model import Model
from lgbench.claims.readings import Look
from lgbench.store.readings import Reading, Readings

MODEL = Model(task="toy", metric="MSE", train_length=64, train_steps=100, num_layers=2, d_state=8)
ROW = {
    "status": "ok", "axis": "context", "protocol": "clean", "eval_draw": 0, "num_queries": 16, "best": 0.0,
    "chance": 1.0, "higher_is_better": False, "combine": "mean", "item_clusters": None, "items_hash": "items",
    "created_at": "2026-01-01", "backbone_params": {}, "data_fingerprint": "f00d", "device": "NVIDIA H200",
    "train_wall_s": 60.0, "eval_wall_s": 6.0, "calibration_wall_s": 0.0, "learning_rate": 1e-3,
    "lm_weight": 0.0, "train_low": 1, "train_high": 64, "d_model": 16, "batch_size": 8,
}  # fmt: skip


def rows_of(model, curve, *, seeds=(0, 1, 2, 3, 4), lengths=(64, 128), spread=0.001, num_items=40, **columns):
    """Rows of a model: at a length the items have the mean `curve(length)`, or `curve`, and seeds vary."""
    rows = []
    for seed in seeds:
        for length in lengths:
            level = curve(length) if callable(curve) else curve
            drawn = np.random.default_rng(1000 * length + seed)
            items = level + spread * (drawn.normal() + drawn.normal(size=num_items))
            row = ROW | {name: getattr(model, name) for name in ("task", "metric", "backbone", "preset")}
            row |= {
                name: getattr(model, name)
                for name in ("train_length", "train_steps", "num_layers", "d_state")
            }
            row |= {"label": model.method, "method": model.method.split("[")[0], "step": model.train_steps}
            row |= {"training": f"{model.training()} {seed}", "cell": f"{model} {seed}", "seed": seed}
            row |= {"task_params": {k: json.dumps(v) for k, v in model.task_params}}
            row |= {"recipe": {"train_queries": "[16,16]"}, "eval_length": length}
            row |= {"value": items.mean(), "item_values": items}
            rows.append(row | columns)
    return pd.DataFrame(rows)


@pytest.fixture(scope="session")
def model():
    """A model of a task that does not exist."""
    return MODEL


@pytest.fixture(scope="session")
def rows():
    """The function `rows_of`."""
    return rows_of


@pytest.fixture(scope="session")
def cells():
    """A function from frames of rows, and readings, to what claims read."""
    return lambda *parts, **others: Cells(pd.concat(parts, ignore_index=True), **others)


LOOK = Look(probe="xray", model=MODEL, lengths=(64, 128), items=4)


def looked(seed, value, look=LOOK, name="bones", at=64, **facts):
    """What a probe stored of a seed of the model of a look."""
    known = {
        "probe_label": look.probe, "training": f"{look.model.training()} {seed}", "label": look.model.method,
        "lengths": list(look.lengths), "items": look.items, "layers": [0, 1], "num_layers": 2,
        "created_at": "2026-01-01",
    }  # fmt: skip
    return Readings([Reading(name, value, at)], facts=known | facts)


@pytest.fixture(scope="session")
def look():
    """A probe that does not exist, asked for on the model."""
    return LOOK


@pytest.fixture(scope="session")
def readings():
    """The function `looked`."""
    return looked
