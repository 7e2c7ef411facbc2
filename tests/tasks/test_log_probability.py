"""Tasks whose answers are classes keep the log-probability of the right one beside the headline metric."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lgbench.models.model import build_model
from lgbench.models.symbols import LOG_PROBABILITY
from lgbench.plan.cells import load_task
from lgbench.plan.params import parse_plugins, resolve
from lgbench.plugins.registry import METHODS
from lgbench.run.evaluate import evaluate
from lgbench.store.rows_file import read_rows, unfinished
from lgbench.task import Batch

ROWS = Path(__file__).parents[2] / "results" / "rows"
EVERYONE = slice(0, 8)


def load(text):
    (request,) = parse_plugins(text)
    task = load_task(request)
    task.prepare(torch.device("cpu"))
    return task


def load_method(text):
    (request,) = parse_plugins(text)
    method = METHODS.load(request.name)
    return method(resolve(method, request.params, "method", request.name))


@pytest.mark.parametrize("method", ["vanilla", "slow_clock"])
@pytest.mark.parametrize("name", ["marked_recall", "induction_heads", "mqar"])
def test_it_is_that_of_the_logits_in_bits_and_stands_behind_the_headline(name, method):
    task, method = load(name), METHODS.load(method)()
    recipe = task.recipe("smoke", "causal")
    lengths = recipe.eval_lengths[2:4]
    recipe = replace(recipe, eval_lengths=lengths, eval_items=8, eval_batch=4, num_layers=1)
    model, items = build_model(task, method, recipe, seed=0), task.eval_set(8, 0)
    found = evaluate(model, task, method, recipe, items)
    assert [m.metric.name for m in found] == ["accuracy", "log2-probability"] * 2
    queries, targets = items.queries(EVERYONE, lengths[1], recipe.eval_queries)
    batch = Batch(items.context(EVERYONE, 0, lengths[1], lengths[1]), queries, targets)
    with torch.no_grad():
        logits = model.eval().answer(batch, mode="score", length=lengths[1])
    bits = torch.log_softmax(logits, dim=2).gather(2, targets[..., None])[..., 0].mean(dim=1) / np.log(2)
    assert found[-1].values == pytest.approx(bits.numpy(), rel=1e-4)


@pytest.mark.parametrize("name, classes", [("marked_recall", 8), ("induction_heads", 15)])
def test_equal_odds_score_chance_and_certainty_scores_best(name, classes):
    task = load(name)
    chance = task.references(task.eval_set(4, 0), 1, LOG_PROBABILITY)["chance"]
    targets = torch.tensor([[1]])
    equal, sure = torch.zeros(1, 1, classes), torch.zeros(1, 1, classes)
    sure[..., 1] = 1000
    assert -task.loss(equal, targets).item() / np.log(2) == pytest.approx(chance)
    assert -task.loss(sure, targets).item() == LOG_PROBABILITY.best


def test_a_published_cell_without_it_stays_finished():
    path = min((ROWS / "marked_recall").glob("*.parquet"))
    table = read_rows(path)
    assert set(table["metric"].to_pylist()) == {"accuracy"} and unfinished(table) is None


@pytest.mark.parametrize("method", ["vanilla", "decimamba[layers=0,l_base=64]"])
def test_of_answers_of_several_tokens_it_is_that_of_the_whole_answer(method):
    task, method = load("passkey[data=procedural,tokenizer=bytes]"), load_method(method)
    recipe = task.recipe("smoke", "causal")
    recipe = replace(recipe, eval_lengths=(192,), eval_items=5, eval_batch=5, num_layers=2)
    model, items = build_model(task, method, recipe, seed=0), task.eval_set(5, 0)
    items.reach(192)
    found = {m.metric.name: m.values for m in evaluate(model, task, method, recipe, items)}
    assert [*found] == ["accuracy", "log2-probability"]
    everyone = slice(0, 5)
    queries, targets = items.queries(everyone, 192, recipe.eval_queries)
    context = items.context(everyone, 0, items.num_tokens(192), 192)
    with torch.no_grad():
        logits = model.eval().answer(Batch(context, queries, targets), mode="score", length=192)
    each = torch.log_softmax(logits.double(), dim=2).gather(2, targets.clamp(min=0)[..., None])[..., 0]
    bits = (each * (targets >= 0)).sum(dim=1) / np.log(2)
    assert found["log2-probability"] == pytest.approx(bits.numpy(), rel=1e-4) and (bits < -8).all()


def test_chance_of_a_passkey_is_the_best_odds_of_its_codes():
    task = load("passkey[data=procedural,tokenizer=bytes]")
    task.codes = {"eval": ["11111", "11111", "22222", "33333"]}
    items = task.eval_set(5, 0)
    assert task.references(items, 1, task.metric) == {"chance": 0.5}
    assert task.references(items, 1, LOG_PROBABILITY) == {"chance": -1.5}
