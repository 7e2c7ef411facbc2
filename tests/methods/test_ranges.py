"""Vanilla, truncated and expanded differ in the lengths that they train on, and in nothing else."""

import pytest

from lgbench.errors import UserError
from lgbench.intervention import active_hooks
from lgbench.method import ScanIntervention
from lgbench.plan.params import resolve
from lgbench.plugins.registry import METHODS


def build(name, **params):
    plugin = METHODS.load(name)
    return plugin(resolve(plugin, params, "method", name))


@pytest.mark.parametrize(
    ("method", "wanted"),
    [
        (("vanilla", {}), (1, 1024)),
        (("truncated", {}), (512, 1024)),
        (("truncated", {"low": 1}), (1, 1024)),
        (("truncated", {"low": 1024}), (1024, 1024)),
        (("expanded", {}), (1, 4096)),
        (("expanded", {"factor": 2}), (1, 2048)),
        (("prepended", {}), (1, 1024)),
        (("transformer", {}), (1, 1024)),
    ],
    ids=str,
)
def test_training_lengths_at_a_training_length_of_1024(method, wanted):
    name, params = method
    assert build(name, **params).train_lengths(1024) == wanted


def test_a_training_length_of_one_token_is_possible():
    assert build("truncated").train_lengths(1) == (1, 1)


def test_a_lower_limit_above_the_training_length_says_what_to_change():
    with pytest.raises(UserError, match=r"low=512 is above the training length 256\. Choose low in 1\.\.256"):
        build("truncated", low=512).train_lengths(256)


@pytest.mark.parametrize("params", [{"factor": 1}, {"factor": 65}, {"factor": "wide"}, {"high": 2}], ids=str)
def test_what_expanded_cannot_mean_is_refused(params):
    with pytest.raises(UserError):
        build("expanded", **params)


@pytest.mark.parametrize("name", ["vanilla", "truncated", "expanded", "transformer"])
def test_they_change_nothing_in_the_scan_and_train_by_themselves(name):
    method = build(name)
    intervention = method.intervention(64, 16)
    assert type(intervention) is ScanIntervention
    assert active_hooks(intervention, "score") == frozenset()
    assert method.trains_like is None and intervention.trained is None


@pytest.mark.parametrize("name", ["vanilla", "truncated", "expanded"])
def test_one_pass_serves_a_grid_of_lengths_for_mamba_and_not_for_the_transformer(name):
    assert build(name).backbone == "mamba" and build(name).prefix_exact
    assert build("transformer").backbone == "encoder_decoder" and not build("transformer").prefix_exact
