"""Induction heads by their definition, the published recipe, and a million tokens."""

import time

import pytest
import torch

from lgbench.plan.cells import load_task
from lgbench.plan.params import PluginRequest


def load(**params):
    task = load_task(PluginRequest("induction_heads", params))
    task.prepare(torch.device("cpu"))
    return task


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("vocabulary", [3, 16])
@pytest.mark.parametrize("length", [2, 3, 30])
def test_the_marker_stands_once_and_asks_for_what_followed_it(vocabulary, length):
    marker = vocabulary - 1
    batch = load(vocabulary=vocabulary).sample(100, length, 2, rng())
    for tokens, asked, answers in zip(
        batch.context["tokens"].tolist(),
        batch.queries["tokens"].tolist(),
        batch.targets.tolist(),
        strict=True,
    ):
        assert tokens.count(marker) == 1 and asked == [marker, marker]
        assert answers == [tokens[tokens.index(marker) + 1]] * 2 and answers[0] < marker


def test_sixteen_tokens_with_the_marker_leave_fifteen_answers_that_are_equally_likely():
    task = load()
    answers = torch.bincount(task.sample(15_000, 9, 1, rng()).targets[:, 0])
    assert len(answers) == 15 and (answers - 1000).abs().max() < 5 * 1000**0.5
    assert task.references(task.eval_set(4, 0), 1, task.metric) == {"chance": pytest.approx(1 / 15)}


def test_the_paper_preset_is_the_published_recipe():
    recipe = load().recipe("paper", "causal")
    assert (recipe.num_layers, recipe.d_model, recipe.train_length) == (2, 64, 256)
    assert recipe.fixed_length
    assert (recipe.batch_size, recipe.train_steps, recipe.learning_rate) == (8, 25 * 8192, 1e-3)
    assert (recipe.warmup_steps, recipe.decay_from, recipe.weight_decay) == (0, 1.0, 0.0)
    assert recipe.eval_lengths == tuple(2**k for k in range(6, 21))


@pytest.mark.parametrize("preset", ["small", "paper"])
def test_evaluation_items_of_a_million_tokens_are_drawn_in_seconds_and_stay_small(preset):
    task = load()
    recipe = task.recipe(preset, "causal")
    items, length = task.eval_set(recipe.eval_items, 0), recipe.eval_lengths[-1]
    assert length == 1 << 20
    began = time.process_time()
    piece = items.context(slice(0, recipe.eval_batch), length - 4096, length, length)["tokens"]
    assert time.process_time() - began < 20
    assert piece.shape == (recipe.eval_batch, 4096) and piece.dtype == torch.uint8
    _, targets = items.queries(slice(0, 3), length, 1)
    first = items.context(slice(0, 3), 0, length, length)["tokens"]
    place = (first == 15).int().argmax(dim=1, keepdim=True)
    assert ((first == 15).sum(dim=1) == 1).all() and torch.equal(first.gather(1, place + 1), targets.byte())
