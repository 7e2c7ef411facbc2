"""Multi-query associative recall by its definition: where pairs stand, what queries ask, one answer each."""

from dataclasses import replace

import pytest
import torch

from lgbench.errors import UserError
from lgbench.plan.cells import load_task
from lgbench.plan.params import PluginRequest

HALF, BLANK = 16, 32


def load(**params):
    task = load_task(PluginRequest("mqar", params))
    task.prepare(torch.device("cpu"))
    return task


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def read(batch, first, pairs):
    """Dictionaries of keys and values of each context, from where its pairs stand, and the rest of it."""
    tokens = batch.context["tokens"].long()
    there = tokens[:, first : first + 2 * pairs].unflatten(1, (pairs, 2))
    rest = torch.cat([tokens[:, :first], tokens[:, first + 2 * pairs :]], dim=1)
    return [dict(item.tolist()) for item in there], rest


@pytest.mark.parametrize(("gap", "first"), [(None, 0), (0, 13), (5, 8), (13, 0)])
@pytest.mark.parametrize("noise", ["values", "blank"])
def test_pairs_stand_before_the_gap_and_each_query_has_the_value_of_its_key(gap, first, noise):
    batch = load(gap=gap, noise=noise).sample(50, 21, 4, rng())
    found, rest = read(batch, first, pairs=4)
    for pairs, asked, answers in zip(
        found, batch.queries["tokens"].tolist(), batch.targets.tolist(), strict=True
    ):
        assert len(pairs) == 4 and all(HALF <= key < BLANK for key in pairs)
        assert sorted(asked) == sorted(pairs) and answers == [pairs[key] for key in asked]
        assert all(0 <= answer < HALF for answer in answers)
    assert rest.shape == (50, 13)
    assert (rest == BLANK).all() if noise == "blank" else ((rest < HALF).all() and len(rest.unique()) == HALF)


@pytest.mark.parametrize("pairs", [1, 3, 16])
def test_no_key_stands_twice_so_that_every_answer_is_unique(pairs):
    batch = load(pairs=pairs).sample(50, 2 * pairs + 9, pairs, rng())
    tokens = batch.context["tokens"]
    for item, asked in zip(tokens, batch.queries["tokens"], strict=True):
        assert [(item == key).sum().item() for key in asked] == [1] * pairs


def test_queries_ask_for_all_pairs_before_they_ask_for_one_again():
    batch = load().sample(30, 12, 10, rng())
    asked = batch.queries["tokens"]
    assert torch.equal(asked[:, :4], asked[:, 4:8]) and torch.equal(asked[:, :2], asked[:, 8:])
    assert all(len(item.unique()) == 4 for item in asked)
    orders = (asked[:, :4, None] == batch.context["tokens"][:, None, 0:8:2]).int().argmax(dim=2)
    assert len(orders.unique(dim=0)) > 10, "the order is not that of the context"


def test_values_are_uniform_so_that_a_constant_answer_has_chance():
    task = load(vocabulary=8)
    answers = torch.bincount(task.sample(1000, 8, 4, rng()).targets.flatten())
    assert len(answers) == 4 and (answers - 1000).abs().max() < 5 * 1000**0.5
    assert task.references(task.eval_set(4, 0), 1, task.metric) == {"chance": 0.25}


def test_the_shortest_context_has_room_for_pairs_and_gap():
    assert load().min_length == 8 and load(pairs=3, gap=5).min_length == 11
    batch = load(pairs=3, gap=5).sample(2, 11, 3, rng())
    assert (batch.context["tokens"][:, 0] >= HALF).all()


def test_more_pairs_than_keys_are_refused():
    with pytest.raises(UserError, match=r"40 pairs need as many keys.*vocabulary must be at least 80"):
        load(pairs=40)


def test_presets_fit_their_pairs():
    recipe = load(pairs=8, gap=4).recipe("smoke", "causal")
    assert (recipe.train_length, recipe.stages) == (80, ((20,), (40,), (80,)))
    assert recipe.train_queries == (8, 8) and recipe.eval_queries == 8 and recipe.eval_lengths[0] == 20


@pytest.mark.parametrize(("numbers", "option"), [({"train_length": 7}, "train-length 7"),
                                                 ({"eval_lengths": (5, 80)}, "eval-lengths 5")])  # fmt: skip
def test_contexts_without_room_for_the_pairs_are_refused(numbers, option):
    task = load()
    with pytest.raises(UserError, match=f"--{option}: a context of mqar has at least 8 tokens"):
        task.check(replace(task.recipe("smoke", "causal"), **numbers))
