"""Rows of one made-up board, as data frames."""

import numpy as np
import pandas as pd
import pytest

from lgbench.stats.panel import panels
from lgbench.stats.rows import fill_task_facts

GRID = [512, 1024, 2048, 4096, 8192, 16384, 32768]
SETTING = {
    "backbone": "mamba", "train_length": 1024, "train_low": 1, "train_high": 1024, "train_steps": 100,
    "d_model": 16, "num_layers": 2, "d_state": 8, "batch_size": 8, "lm_weight": 0.0, "learning_rate": 1e-3,
    "axis": "context", "step": 100, "num_queries": 1, "chance": 0.0, "best": 1.0, "higher_is_better": True,
    "combine": "mean", "references": "{}", "items_hash": "items", "status": "ok", "doubled": "",
}  # fmt: skip


def make_rows(curve, *, method="vanilla", seeds=(0, 1, 2), lengths=GRID, num_items=40, noise=0.0, **columns):
    """Rows of a series named like its method; `curve(length, seed)` is the mean, `noise` that of items."""
    rows = []
    for seed in seeds:
        for length in lengths:
            wobble = np.random.default_rng(length).normal(0, noise, num_items)
            items = curve(length, seed) + wobble - wobble.mean()
            row = SETTING | {"series": method, "method": method, "label": method, "cell": f"{method}{seed}"}
            row |= {"seed": seed, "eval_length": length, "value": items.mean(), "item_values": items}
            rows.append(row | columns)
    return pd.DataFrame(rows)


def make_missing(method, seed, status, lengths=(None,)):
    """Rows of a seed that have no value."""
    row = SETTING | {"series": method, "method": method, "seed": seed, "status": status, "value": np.nan}
    return pd.DataFrame([row | {"eval_length": length} for length in lengths])


def make_panels(*parts, missing=()):
    """Panels of these rows."""
    rows = fill_task_facts(pd.concat(parts, ignore_index=True))
    nothing = pd.DataFrame(columns=["series", "axis", "seed", "eval_length", "status"])
    return list(panels(rows, pd.concat(missing, ignore_index=True) if missing else nothing))


@pytest.fixture(scope="session")
def rows():
    """The function `make_rows`."""
    return make_rows


@pytest.fixture(scope="session")
def missing():
    """The function `make_missing`."""
    return make_missing


@pytest.fixture(scope="session")
def arrange():
    """The function `make_panels`."""
    return make_panels
