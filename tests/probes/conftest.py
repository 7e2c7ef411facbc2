"""Tiny trained cells to look into: Omniglot under three methods, text, and a transformer."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

import lgbench
from lgbench.plan.rekey import cell_of_row
from lgbench.plugins.registry import PROBES
from lgbench.run.probing import Look, look
from lgbench.store import read

COMMON = dict(
    preset="smoke", device="cpu", train_steps=2, seeds=1, eval_items=4, eval_queries=8, query_grid=(1,)
)  # fmt: skip


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A results folder with cells of two training steps."""
    root = tmp_path_factory.mktemp("looked_into")
    options = COMMON | dict(results=root, num_layers=2, train_length=16)
    lgbench.run("omniglot", ["vanilla", "prepended", "decimamba"], lengths=(8, 16), **options)
    lgbench.run("omniglot", "transformer", lengths=(8, 16), **options)
    text = {k: v for k, v in options.items() if k not in ("train_length", "query_grid", "eval_items")}
    lgbench.run("perplexity", "vanilla", lengths=(64,), train_length=64, eval_items=4, **text)
    lgbench.run("passkey", "vanilla", lengths=(256,), train_length=256, eval_items=5, **text)
    return root


@pytest.fixture
def cell(trained):
    """`cell("omniglot", "vanilla")` is a trained cell."""
    rows = read([trained]).table.to_pylist(maps_as_pydicts="strict")

    def find(task="omniglot", method="vanilla"):
        return cell_of_row(next(r for r in rows if (r["task"], r["method"]) == (task, method)))

    return find


@pytest.fixture
def read_by(trained, cell, tmp_path):
    """`read_by("state_norm", lengths=(8, 16), params={…})` → readings of a cell, stored under `tmp_path`."""

    def run(name, *, task="omniglot", method="vanilla", params=None, **asked):
        kind = PROBES.load(name)
        probe = kind(kind.Params(**(params or {})))
        return look(probe, name, cell(task, method), trained, Look(**asked), out=tmp_path)[1]

    return run


@pytest.fixture
def feed():
    """`feed(recorder, delta, A, …)` shows a scan to layer 0 of a recorder, in pieces and passes."""

    def show(recorder, *, length=None, cuts=(), passes=1, chosen=slice(0, 1), **tensors):
        whole = _scan(**tensors)
        total = whole.delta.shape[1]
        for passage in range(passes):
            recorder.start(length or total, chosen, passage)
            for start, stop in zip((0, *cuts), (*cuts, total), strict=True):
                recorder.record(
                    0, A=whole.A, state=whole.states[:, stop - 1],
                    **{n: getattr(whole, n)[:, start:stop] for n in ("delta", "B", "C", "x")},
                )  # fmt: skip
        return whole

    return show


def _scan(delta, A, B=None, C=None, x=None):
    """A selective scan by its definition: all tensors, and all states and outputs without the skip."""
    batch, length, channels = delta.shape
    B = torch.ones(batch, length, A.shape[1]) if B is None else B
    C = torch.ones_like(B) if C is None else C
    x = torch.ones_like(delta) if x is None else x
    h, states = torch.zeros(batch, channels, A.shape[1]), []
    for t in range(length):
        h = torch.exp(delta[:, t, :, None] * A) * h + (delta[:, t] * x[:, t])[..., None] * B[:, t, None]
        states.append(h)
    states = torch.stack(states, dim=1)
    y = torch.einsum("blcn,bln->blc", states, C)
    return SimpleNamespace(delta=delta, A=A, B=B, C=C, x=x, states=states, y=y)


@pytest.fixture
def random_scan():
    """Arguments of `feed`: two sequences, 24 tokens, 3 channels, 4 states."""
    draw = torch.Generator().manual_seed(0)
    return dict(
        delta=torch.rand(2, 24, 3, generator=draw),
        A=-torch.rand(3, 4, generator=draw) - 0.1,
        B=torch.randn(2, 24, 4, generator=draw),
        C=torch.randn(2, 24, 4, generator=draw),
        x=torch.randn(2, 24, 3, generator=draw),
    )
