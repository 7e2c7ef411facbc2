"""Both calibrators descend, repeat, keep their best and stay within limits."""

import math

import pytest
import torch

from lgbench.run.calibrators import adamw, fit_logarithms, spsa

TARGET = torch.tensor([[0.3], [1.7], [0.9]])


def quadratic(values):
    loss = (values - TARGET).square().sum()
    if values.requires_grad:
        loss.backward()
    return loss.item()


@pytest.mark.parametrize("fit, rate", [(adamw, 0.05), (spsa, 0.1)], ids=["adamw", "spsa"])
def test_both_calibrators_descend_on_a_quadratic(fit, rate):
    found = fit(quadratic, torch.ones(3, 1), learning_rate=rate, steps=80, low=0.01)
    assert quadratic(found) < 0.02 * quadratic(torch.ones(3, 1))


@pytest.mark.parametrize("fit", [adamw, spsa])
def test_the_same_seed_gives_the_same_trajectory(fit):
    def trajectory():
        seen = []

        def watched(values):
            seen.append(values.detach().clone())
            return quadratic(values)

        fit(watched, torch.ones(3, 1), learning_rate=0.05, steps=10, low=0.01)
        return torch.stack(seen)

    assert torch.equal(trajectory(), trajectory())


def test_another_seed_gives_another_trajectory_of_spsa():
    one, other = (
        spsa(quadratic, torch.ones(3, 1), learning_rate=0.1, steps=5, low=0.01, seed=s) for s in (0, 1)
    )
    assert not torch.equal(one, other)


def test_spsa_asks_for_losses_alone_three_a_step():
    calls = []

    def watched(values):
        assert not values.requires_grad
        calls.append(1)
        return quadratic(values)

    spsa(watched, torch.ones(3, 1), learning_rate=0.1, steps=7, low=0.01)
    assert len(calls) == 1 + 3 * 7


@pytest.mark.parametrize("fit", [adamw, spsa])
def test_the_best_iterate_wins_even_if_it_is_the_first(fit):
    near = TARGET + 1e-3
    found, last = (
        fit(quadratic, near, learning_rate=0.5, steps=1, low=0.01, keep_best=k) for k in (True, False)
    )
    assert torch.equal(found, near) and not torch.equal(last, near)


@pytest.mark.parametrize("fit", [adamw, spsa])
def test_values_stay_within_their_limits(fit):
    def downhill(values):
        loss = values.sum()
        if values.requires_grad:
            loss.backward()
        assert values.min() >= 0.01 and values.max() <= 1.0
        return loss.item()

    found = fit(downhill, torch.full((2, 1), 0.5), learning_rate=0.3, steps=20, low=0.01, high=1.0)
    assert found.min() >= 0.01 and found.dtype == torch.float32


@pytest.mark.parametrize("fit", [adamw, spsa])
def test_losses_that_are_not_finite_are_avoided(fit):
    def cliff(values):
        loss = (values - 0.2).square().sum() if bool((values < 1.05).all()) else (values * math.nan).sum()
        if values.requires_grad:
            loss.backward()
        return loss.item()

    found = fit(cliff, torch.ones(2, 1), learning_rate=0.05, steps=30, low=0.01)
    assert math.isfinite(cliff(found)) and cliff(found) < cliff(torch.ones(2, 1))


@pytest.mark.parametrize(
    "fit, other, options",
    [
        (adamw, 0.9, {"learning_rate": 0.3, "steps": 30}),
        (spsa, 0.02, {"learning_rate": 0.001, "steps": 50}),
    ],
    ids=["adamw", "spsa"],
)
def test_logarithms_reach_what_the_floor_hides(fit, other, options):
    """One scale of two has its optimum at 1 / 128, as images need at 128 times their training length."""
    wanted = torch.tensor([[1 / 128], [other]])

    def bowl(values):
        loss = (values.log() - wanted.log()).square().sum()
        if values.requires_grad:
            loss.backward()
        return loss.item()

    ones = torch.ones(2, 1)
    before = fit(bowl, ones, low=0.01, **options)
    found = fit_logarithms(fit, bowl, bowl, starts=[ones, ones / 128], **options)
    assert before.min() >= 0.01 and found[0].item() == pytest.approx(1 / 128, rel=0.35)
    assert bowl(found) < bowl(before)


@pytest.mark.parametrize("fit", [adamw, spsa])
def test_what_the_judging_items_do_not_like_is_not_taken(fit):
    ones, options = torch.ones(3, 1), {"learning_rate": 0.1, "steps": 9}
    starts = [ones, ones / 8]

    def unlike_ones(values):
        return (values - 1).square().sum().item()

    assert torch.equal(fit_logarithms(fit, quadratic, unlike_ones, starts=starts, **options), ones)
    assert torch.equal(fit_logarithms(fit, quadratic, lambda v: math.nan, starts=starts, **options), ones)
    assert quadratic(fit_logarithms(fit, quadratic, quadratic, starts=starts, **options)) < quadratic(ones)
