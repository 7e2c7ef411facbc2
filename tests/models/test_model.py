"""A model announces every sequence to its method, streams without touching kept states, has a seed."""

from dataclasses import replace

import pytest
import torch

from lgbench.errors import UserError
from lgbench.intervention import ScanIntervention
from lgbench.method import Method
from lgbench.models.model import build_model
from lgbench.plugins.registry import BACKBONES, METHODS
from lgbench.recipe import suggest


class Listener(ScanIntervention):
    def __init__(self):
        self.heard = []

    def begin(self, mode, length, num_protected):
        self.heard.append((mode, length, num_protected))


class Listening(Method):
    def intervention(self, train_length, d_model):
        return Listener()


def build(task, method=None, seed=0, **changes):
    method = method or Method()
    recipe = replace(task.recipe("smoke", BACKBONES.load(method.backbone).layout), **changes)
    return build_model(task, method, recipe, seed=seed)


def test_every_sequence_is_announced_with_its_mode_its_true_length_and_what_must_survive(toy_task):
    model = build(toy_task, Listening()).eval()
    batch = toy_task.sample(2, 9, 3, torch.Generator())
    model.answer(batch, mode="train", length=7)
    state = model.read_context({"copies": batch.context["copies"][:, :4]}, None, 9)
    state = model.read_context({"copies": batch.context["copies"][:, 4:]}, state, 9)
    model.answer_from(state, batch.queries, 3, 9)
    separator = 1
    assert model.intervention.heard == [
        ("train", 7, separator + 3),
        ("prefill", 9, 0),
        ("prefill", 9, 0),
        ("decode", 9, separator + 3),
    ]


@pytest.mark.parametrize("method", ["vanilla", "prepended", "transformer"])
def test_predictions_have_the_shape_of_the_targets(toy_task, method):
    model = build(toy_task, METHODS.load(method)())
    batch = toy_task.sample(2, 9, 3, torch.Generator())
    assert model.answer(batch, mode="train", length=9).shape == batch.targets.shape


@pytest.mark.parametrize("method", ["vanilla", "prepended"])
def test_streamed_answers_equal_answers_in_one_piece(toy_task, method):
    model = build(toy_task, METHODS.load(method)()).eval()
    batch = toy_task.sample(2, 9, 3, torch.Generator())
    with torch.no_grad():
        whole = model.answer(batch, mode="score", length=9)
        state = None
        for start, stop in ((0, 2), (2, 3), (3, 9)):
            state = model.read_context({"copies": batch.context["copies"][:, start:stop]}, state, 9)
        streamed = model.answer_from(state, batch.queries, 3, 9)
    torch.testing.assert_close(streamed, whole, atol=1e-5, rtol=1e-5)


def test_answering_leaves_the_kept_state_as_it_is(toy_task):
    model = build(toy_task, sizes=suggest(d_state=4, conv_width=3)).eval()
    batch = toy_task.sample(2, 9, 3, torch.Generator())
    with torch.no_grad():
        state = model.read_context(batch.context, None, 9)
        before = [tuple(t.clone() for t in layer) for layer in state]
        first = model.answer_from(state, batch.queries, 3, 9)
        again = model.answer_from(state, batch.queries, 3, 9)
    assert torch.equal(first, again)
    for layer, kept in zip(state, before, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(layer, kept, strict=True))


@pytest.mark.parametrize("method", ["vanilla", "prepended", "transformer"])
def test_a_seed_gives_the_same_weights_and_leaves_the_global_generator_alone(toy_task, method):
    plugin = METHODS.load(method)()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = build(toy_task, plugin, seed=1).state_dict()
    assert torch.equal(torch.rand(3), expected)
    again, other = build(toy_task, plugin, seed=1).state_dict(), build(toy_task, plugin, seed=2).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_what_a_method_trains_is_part_of_the_model(toy_task):
    plain, prepended = build(toy_task), build(toy_task, METHODS.load("prepended")())
    assert prepended.num_parameters == plain.num_parameters + 2 * 16
    assert {"trained.weight", "trained.bias"} <= set(prepended.state_dict())


def test_backbones_are_found_by_name():
    assert {BACKBONES.load(name).layout for name in BACKBONES.names()} == {"causal", "encoder_decoder"}
    with pytest.raises(UserError, match=r"no backbone 'rnn'\. .*Known: decoder, encoder_decoder, fla"):
        BACKBONES.load("rnn")
