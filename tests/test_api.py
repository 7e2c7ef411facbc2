"""What a notebook does: run objects and names, read rows, load a trained model."""

import subprocess
import sys

import pytest
import torch

import lgbench
from lgbench.errors import UserError
from lgbench.plugins.registry import BACKBONES


class EwmaNet(lgbench.Backbone):
    """An exponential moving average with a learned rate a channel."""

    def mixer(self, d_model, layer):
        return Ewma(d_model)


class Ewma(torch.nn.Module):
    def __init__(self, d_model):
        super().__init__()
        self.rate, self.out = torch.nn.Parameter(torch.zeros(d_model)), torch.nn.Linear(d_model, d_model)

    def forward(self, x):
        keep, state, found = torch.sigmoid(self.rate), torch.zeros_like(x[:, 0]), []
        for t in range(x.shape[1]):
            state = keep * state + (1 - keep) * x[:, t]
            found.append(state)
        return self.out(torch.stack(found, dim=1))


@pytest.fixture
def quick(toys, tmp_path):
    """Options of a run that takes a second."""
    return dict(
        preset="smoke", results=tmp_path / "runs", device="cpu", train_steps=2, query_grid=(1,), plugin=toys
    )


def test_a_class_runs_beside_a_name_and_only_its_own_rows_are_given_back(quick):
    names = BACKBONES.names()
    try:
        mine = lgbench.run("toy_average", "vanilla", EwmaNet, lengths=(1, 8), **quick)
        theirs = lgbench.run("toy_average", "vanilla", "mamba", lengths=(1, 8), **quick)
    finally:
        BACKBONES._found = {name: BACKBONES._found[name] for name in names}
    assert set(mine["backbone"]) == {"ewma_net"} and set(theirs["backbone"]) == {"mamba"}
    assert sorted(mine[mine["axis"] == "context"]["eval_length"]) == [1, 8]
    assert len(lgbench.rows(quick["results"])) == len(mine) + len(theirs)


def test_a_finished_run_is_not_run_again(quick):
    first = lgbench.run("toy_average", lengths=(1, 8), **quick)
    again = lgbench.run("toy_average", lengths=(1, 8), **quick)
    assert list(first["created_at"]) == list(again["created_at"]) and list(first["value"]) == list(
        again["value"]
    )


def test_a_trained_model_is_loaded_by_the_beginning_of_its_key(quick):
    found = lgbench.run("toy_average", lengths=(1, 8), **quick)
    model = lgbench.load(found["cell"].iloc[0][:8], quick["results"])
    assert not model.training and model.num_parameters == found["num_parameters"].iloc[0]


def test_a_cell_that_is_not_there_is_named(quick):
    lgbench.run("toy_average", lengths=(1, 8), **quick)
    with pytest.raises(UserError, match="no single cell 'zzz'"):
        lgbench.load("zzz", quick["results"])


def test_the_api_is_imported_when_it_is_used():
    code = (
        "import sys, lgbench; assert 'torch' not in sys.modules; lgbench.Task; assert 'torch' in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        lgbench.nothing  # noqa: B018
