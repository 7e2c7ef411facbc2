"""A model that its owner trained elsewhere is measured as it is or trained on; misfits are listed."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from lgbench.cli import app
from lgbench.models.model import build_model
from lgbench.plugins import registry
from lgbench.plugins.registry import METHODS
from lgbench.run.evaluate import evaluate
from lgbench.store import read

GRU = Path(__file__).parents[2] / "examples" / "gru.py"


@pytest.fixture
def own(toy_task):
    """A GRU with large weights, as after a training."""
    registry.add_file(GRU)
    recipe = toy_task.recipe("smoke", "causal")
    model = build_model(toy_task, METHODS.load("vanilla")(), recipe, seed=5, backbone="gru").requires_grad_(
        False
    )
    for parameter in model.parameters():
        parameter.add_(0.3)
    return model


def run(toy_options, tmp_path, weights, *more):
    asked = [*toy_options, "--plugin", str(GRU), "--backbone", "gru", "--weights", str(weights)]
    return CliRunner().invoke(app, [*asked, "--results", str(tmp_path / "runs"), *more])


def test_own_weights_are_measured_as_they_are_without_training_steps(toy_options, toy_task, own, tmp_path):
    save_file(own.state_dict(), tmp_path / "own.safetensors")
    done = run(toy_options, tmp_path, tmp_path / "own.safetensors", "--train-steps", "0")
    assert done.exit_code == 0, done.output
    rows = [r for r in read([tmp_path / "runs"]).table.to_pylist() if r["axis"] == "context"]
    method, recipe = METHODS.load("vanilla")(), toy_task.recipe("smoke", "causal")
    items = toy_task.eval_set(recipe.eval_items, 0)
    values = {m.eval_length: m.values.mean() for m in evaluate(own, toy_task, method, recipe, items)
              if m.axis == "context"}  # fmt: skip
    assert {r["eval_length"]: pytest.approx(r["value"], rel=1e-6) for r in rows} == values
    assert json.loads(dict(rows[0]["recipe"])["weights"])


def test_a_backbone_alone_gets_fresh_layers_of_the_task(toy_options, own, tmp_path):
    save_file(own.backbone.state_dict(), tmp_path / "own.safetensors")
    done = run(toy_options, tmp_path, tmp_path / "own.safetensors", "--train-steps", "2")
    assert done.exit_code == 0, done.output


def test_what_does_not_fit_is_listed_before_training(toy_options, own, tmp_path):
    state = own.backbone.state_dict()
    state["norm.weights"] = state.pop("norm.weight")
    state["blocks.0.norm.weight"] = torch.ones(3)
    save_file(state, tmp_path / "own.safetensors")
    done = run(toy_options, tmp_path, tmp_path / "own.safetensors", "--train-steps", "2")
    assert done.exit_code == 2 and not list(tmp_path.rglob("*.parquet"))
    words = " ".join(done.output.split())
    assert (
        "1 missing: norm.weight; 1 too many: norm.weights; 1 of another shape: blocks.0.norm.weight" in words
    )


@pytest.mark.parametrize(("content", "words"), [(None, "cannot read"), (b"abc", "is no safetensors file")])
def test_a_file_that_cannot_be_read_is_one_line(toy_options, own, tmp_path, content, words):
    path = tmp_path / "own.safetensors"
    if content is not None:
        path.write_bytes(content)
    done = run(toy_options, tmp_path, path)
    assert done.exit_code == 2 and words in done.output
