"""Marked recall by its definition: one marked pair, or one for each period, and the symbol after it."""

import pytest
import torch

from lgbench.errors import UserError
from lgbench.plan.cells import load_task
from lgbench.plan.params import PluginRequest

MARKER, QUESTION = 8, 9


def load(**params):
    task = load_task(PluginRequest("marked_recall", params))
    task.prepare(torch.device("cpu"))
    return task


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def marked(tokens):
    """Places of the markers in one context."""
    return (tokens == MARKER).nonzero().flatten().tolist()


@pytest.mark.parametrize("length", [2, 3, 7, 40])
def test_a_context_has_one_marker_and_the_answer_is_the_symbol_after_it(length):
    batch = load().sample(200, length, 1, rng())
    assert batch.context["tokens"].dtype == torch.uint8
    for tokens, asked, answer in zip(
        batch.context["tokens"], batch.queries["tokens"], batch.targets, strict=True
    ):
        (place,) = marked(tokens)
        assert tokens[place + 1] == answer.item() < MARKER and asked.tolist() == [QUESTION]


def test_the_marker_may_stand_anywhere_but_last_and_answers_are_uniform():
    batch = load().sample(7000, 8, 1, rng())
    places = torch.bincount((batch.context["tokens"] == MARKER).int().argmax(dim=1), minlength=8)
    answers = torch.bincount(batch.targets[:, 0], minlength=8)
    assert places[7] == 0 and (places[:7] - 1000).abs().max() < 5 * 1000**0.5
    assert (answers - 875).abs().max() < 5 * 875**0.5


@pytest.mark.parametrize("length", [2, 3, 5, 6, 7, 11, 12, 40])
@pytest.mark.parametrize("repeats", [2, 3, 5])
def test_the_marked_pair_comes_again_every_so_many_tokens_with_the_same_symbol(repeats, length):
    batch = load(repeats=repeats).sample(100, length, 1, rng())
    for tokens, answer in zip(batch.context["tokens"], batch.targets, strict=True):
        places = marked(tokens)
        assert places == list(range(places[0], length - 1, repeats)) and places[0] < repeats
        assert {tokens[place + 1].item() for place in places} == {answer.item()}


def test_repeats_change_nothing_up_to_their_own_length_and_one_token():
    once, again = load(), load(repeats=12)
    for length in (2, 12, 13):
        one, two = (task.sample(50, length, 1, rng(3)) for task in (once, again))
        assert torch.equal(one.context["tokens"], two.context["tokens"])
        assert torch.equal(one.targets, two.targets)
    longer = again.sample(50, 40, 1, rng(3)).context["tokens"]
    assert ((longer == MARKER).sum(dim=1) >= 3).all()


def test_further_queries_ask_the_same_and_evaluation_has_at_most_128():
    items = load().eval_set(6, 0)
    queries, targets = items.queries(slice(0, 6), 9, 5)
    assert (targets == targets[:, :1]).all() and queries["tokens"].shape == targets.shape == (6, 5)
    with pytest.raises(UserError, match="--eval-queries 129: an item of this task has 128"):
        items.queries(slice(0, 6), 9, 129)


def test_a_pair_cannot_come_again_with_every_token():
    with pytest.raises(UserError, match="repeats=1; a marked pair takes two tokens, so repeats is 0 or at"):
        load(repeats=1)
