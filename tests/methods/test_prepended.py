"""Prepended puts one token in front that says how long the context is, or what it is told to say."""

import pytest
import torch

from lgbench.intervention import active_hooks
from lgbench.method import ScanIntervention
from lgbench.plan.params import resolve
from lgbench.plugins.registry import METHODS


def build(tell=1.0):
    plugin = METHODS.load("prepended")
    torch.manual_seed(0)
    return plugin(resolve(plugin, {"tell": tell}, "method", "prepended")).intervention(64, 16)


def token_of(intervention, mode, length, batch=2):
    intervention.begin(mode, length, 5)
    tokens = torch.zeros(batch, 3, 16)
    with torch.no_grad():
        longer = intervention.sequence(tokens)
    assert longer.shape == (batch, 4, 16) and torch.equal(longer[:, 1:], tokens)
    assert torch.equal(longer[0, 0], longer[-1, 0])
    return longer[0, 0]


@pytest.mark.parametrize("length", [1, 100, 16_384])
def test_the_token_is_affine_in_the_length_by_a_hundred(length):
    intervention = build()
    weight, bias = intervention.trained.weight[:, 0], intervention.trained.bias
    torch.testing.assert_close(token_of(intervention, "score", length), weight * length / 100 + bias)


def test_in_training_the_truth_is_told_whatever_evaluation_is_told():
    honest, liar = build(), build(tell=4.0)
    assert torch.equal(token_of(honest, "train", 50), token_of(liar, "train", 50))
    for mode in ("score", "prefill"):
        torch.testing.assert_close(token_of(liar, mode, 50), token_of(honest, mode, 200))


def test_a_length_that_is_a_tensor_is_told_like_a_number():
    intervention = build()
    torch.testing.assert_close(
        token_of(intervention, "train", torch.tensor(37)), token_of(intervention, "train", 37)
    )


def test_the_token_starts_uniform_between_minus_one_and_one_and_is_trained():
    plugin = METHODS.load("prepended")
    values = []
    for seed in range(50):
        torch.manual_seed(seed)
        trained = plugin().intervention(64, 16).trained
        assert all(p.requires_grad for p in trained.parameters())
        values.append(torch.cat([p.detach().flatten() for p in trained.parameters()]))
    values = torch.cat(values)
    assert values.abs().max() <= 1 and values.std().item() == pytest.approx(3**-0.5, rel=0.05)


def test_it_only_changes_the_front_of_a_sequence_and_so_needs_no_slow_path():
    assert active_hooks(build(), "prefill") == {"sequence"}
    assert isinstance(build(), ScanIntervention)
    assert METHODS.load("prepended").prefix_exact is False
