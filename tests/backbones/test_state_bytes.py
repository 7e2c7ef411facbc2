"""What is carried is constant for recurrences and grows with the context where tokens are kept."""

from pathlib import Path

import pytest
import torch

from lgbench.models.model import build_model
from lgbench.plugins import registry
from lgbench.plugins.registry import BACKBONES, METHODS
from lgbench.run.evaluate import evaluate

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize(
    ("backbone", "expected"),
    [
        ("mamba", lambda tokens: 2 * 32 * 4 * 4),
        ("gru", lambda tokens: 2 * 16 * 4),
        ("gla", lambda tokens: 2 * 2 * 8 * 8 * 4),
        ("decoder", lambda tokens: 2 * 2 * 16 * 4 * tokens),
    ],
)
def test_bytes_of_the_state_of_one_sequence_at_each_length(toy_task, backbone, expected):
    for name in ("gru", "gla"):
        registry.add_file(EXAMPLES / f"{name}.py")
    method, recipe = METHODS.load("vanilla")(), toy_task.recipe("smoke", "causal")
    model = build_model(toy_task, method, recipe, seed=0, backbone=backbone)
    found = evaluate(model, toy_task, method, recipe, toy_task.eval_set(6, 0))
    context = {m.eval_length: m.state_bytes for m in found if m.axis == "context"}
    assert context == {n: expected(n) for n in recipe.eval_lengths}
    assert {m.state_bytes for m in found if m.axis == "queries"} == {None}


def test_a_model_that_is_not_streamed_carries_nothing(toy_task):
    kind = BACKBONES.load("encoder_decoder")
    method, recipe = METHODS.load("transformer")(), toy_task.recipe("smoke", kind.layout)
    model = build_model(toy_task, method, recipe, seed=0)
    with torch.no_grad():
        found = evaluate(model, toy_task, method, recipe, toy_task.eval_set(4, 0))
    assert {m.state_bytes for m in found} == {None}
