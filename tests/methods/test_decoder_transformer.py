"""The decoder runs on a task like any causal backbone, with the position code that was asked for."""

import json
import math

import numpy as np
import pytest
import torch

from lgbench.errors import UserError
from lgbench.plan.params import resolve
from lgbench.plugins.registry import METHODS
from lgbench.store import read
from lgbench.task import Batch

POSITIONS = ("rope", "alibi", "nope", "sinusoidal")


@pytest.mark.parametrize("position", POSITIONS)
def test_the_backbone_has_the_position_code_that_was_asked_for(bench, position):
    assert bench(f"decoder_transformer[position={position}]").model.backbone.position == position


def test_rotary_codes_are_the_default(bench):
    one, other = bench("decoder_transformer"), bench("decoder_transformer[position=rope]")
    assert torch.equal(one.answer(16), other.answer(16))


def test_an_unknown_position_code_is_refused():
    with pytest.raises(UserError, match=r"position.*rope"):
        resolve(METHODS.load("decoder_transformer"), {"position": "learned"}, "method", "decoder_transformer")


@pytest.mark.parametrize("position", POSITIONS)
def test_answers_from_a_kept_state_are_those_of_the_whole(bench, position):
    made = bench(f"decoder_transformer[position={position}]", num_layers=2)
    queries, targets = made.items.queries(slice(None), 48, 8)
    batch = Batch(made.items.context(slice(None), 0, 48, 48), queries, targets)
    with torch.no_grad():
        whole = made.model.answer(batch, mode="score", length=48)
    torch.testing.assert_close(made.answer(48), whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("position", POSITIONS)
def test_one_pass_over_the_longest_context_is_exact_at_every_shorter_one(bench, position):
    made = bench(f"decoder_transformer[position={position}]", num_layers=2)
    for length, values in made.values().items():
        queries, targets = made.items.queries(slice(None), length, made.recipe.eval_queries)
        batch = Batch(made.items.context(slice(None), 0, length, length), queries, targets)
        with torch.no_grad():
            predictions = made.model.answer(batch, mode="score", length=length)
        alone = made.task.score(predictions, targets).mean(dim=1)
        np.testing.assert_allclose(values, alone.numpy(), atol=1e-5, rtol=1e-5)


def test_each_position_code_is_trained_and_evaluated_as_a_method_of_its_own(toy_cells, run_toy):
    cells = toy_cells("decoder_transformer[position=[rope,nope]]", train_steps=[3], query_grid=())
    outcome, store = run_toy(cells)
    assert not outcome.failed and len({cell.training for cell in cells}) == 2
    rows = read([store.root]).table.to_pylist()
    assert {json.loads(dict(r["method_params"])["position"]) for r in rows} == {"rope", "nope"}
    assert all(math.isfinite(r["value"]) and r["scan_backend"] == "sdpa" for r in rows)
