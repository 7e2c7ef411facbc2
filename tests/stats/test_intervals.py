"""Intervals: formulas by hand, and coverage by simulation."""

import numpy as np
import pytest
from scipy import stats

from lgbench.stats.intervals import (
    bootstrap_interval,
    by_cluster,
    effective_trials,
    estimate,
    mean_interval,
    wilson_interval,
)


def covered(values, truth):
    """Share of the tables `(repeats, seeds, clusters)` whose interval contains the truth."""
    found = estimate(values)
    return float((np.abs(found.mean - truth) <= found.half_width()).mean())


@pytest.mark.parametrize("num_seeds", [3, 5, 8])
@pytest.mark.parametrize("num_clusters", [10, 40, 100])
@pytest.mark.parametrize(
    "sizes",
    [(8.0, 1.0, 1.0), (1.0, 1.0, 1.0), (0.0, 1.0, 1.0), (1.0, 0.0, 1.0), (0.0, 0.0, 1.0), (0.1, 3.0, 1.0)],
    ids=lambda sizes: "-".join(f"{size:g}" for size in sizes),
)
def test_intervals_cover_at_least_91_per_cent_of_normal_components(num_seeds, num_clusters, sizes):
    """The name has the variances, in the mean over all clusters, of seeds, of clusters and of the rest."""
    rng = np.random.default_rng(num_seeds * 1000 + num_clusters)
    seeds, clusters, rest = np.sqrt(np.array(sizes) * [1.0, num_clusters, num_clusters])
    values = (
        seeds * rng.normal(size=(1500, num_seeds, 1))
        + clusters * rng.normal(size=(1500, 1, num_clusters))
        + rest * rng.normal(size=(1500, num_seeds, num_clusters))
    )
    assert covered(values, 0.0) >= 0.91


@pytest.mark.parametrize(("num_seeds", "expected"), [(3, 0.63), (5, 0.83), (8, 0.93)])
def test_where_three_trainings_of_ten_fail_few_seeds_cover_less_and_the_board_says_how_much(
    num_seeds, expected
):
    rng = np.random.default_rng(num_seeds)
    worked = rng.random((20_000, num_seeds, 1)) > 0.3
    share = covered(worked + 0.02 * rng.normal(size=(20_000, 1, 20)), 0.7)
    print(f"{num_seeds} seeds: {share:.3f}")
    assert share == pytest.approx(expected, abs=0.025)


def test_variance_is_that_of_the_crossed_components():
    values = np.random.default_rng(0).normal(size=(3, 20)) + np.arange(3)[:, None] + np.linspace(0, 2, 20)
    found = estimate(values)
    seeds, clusters = values.mean(axis=1), values.mean(axis=0)
    rest = values - seeds[:, None] - clusters + values.mean()
    ms_s, ms_c = 20 * seeds.var(ddof=1), 3 * clusters.var(ddof=1)
    ms_r = (rest**2).sum() / (2 * 19)
    v = max(ms_s + ms_c - ms_r, ms_r) / 60
    nu = (v * 60) ** 2 / (ms_s**2 / 2 + ms_c**2 / 19 + ms_r**2 / 38)
    assert found.variance == pytest.approx(v) and found.freedom == pytest.approx(max(1, nu))
    assert found.half_width() == pytest.approx(stats.t.ppf(0.975, max(1, nu)) * np.sqrt(v))


def test_fewer_than_ten_clusters_are_fixed_and_seeds_alone_vary():
    values = np.arange(3.0)[:, None] + np.array([0.0, 100.0])
    found = estimate(values)
    assert found.variance == pytest.approx(np.arange(3.0).var(ddof=1) / 3) and found.freedom == 2


def test_one_seed_has_no_variance_and_proves_nothing():
    found = estimate(np.random.default_rng(0).normal(5, 1, (1, 50)))
    assert np.isnan(found.half_width()) and found.p_value() == 1


def test_differences_without_any_variation_are_certain_unless_they_are_zero():
    assert estimate(np.full((3, 20), 0.5)).p_value() == 0
    assert estimate(np.zeros((3, 20))).p_value() == 1


def test_clusters_of_unequal_size_keep_the_mean_over_items():
    values = np.random.default_rng(0).normal(size=(4, 3, 30))
    names = ["a"] * 20 + ["b"] * 7 + ["c"] * 3
    table = by_cluster(values, names)
    assert table.shape == (4, 3, 3)
    assert table.mean(axis=(1, 2)) == pytest.approx(values.mean(axis=(1, 2)))
    level = by_cluster(values * 0 + 5, names)
    assert np.ptp(level) == pytest.approx(0, abs=1e-12), "sizes alone are no variation"


def test_items_of_few_clusters_are_worth_less_than_as_many_independent_ones():
    rng = np.random.default_rng(1)
    names = np.repeat(np.arange(12), 10)
    values = rng.normal(size=12)[names] + 0.1 * rng.normal(size=(3, 120))
    together, apart = (np.ptp(mean_interval(values, clusters)) for clusters in (names, None))
    assert together > 2 * apart


def test_the_same_items_under_three_seeds_are_not_three_times_as_many():
    """Three seeds on the same 100 items counted as 300."""
    assert mean_interval(np.ones((3, 100)), None, is_share=True) == pytest.approx(wilson_interval(1.0, 100))
    assert mean_interval(np.ones((1, 100)), None, is_share=True) == pytest.approx(wilson_interval(1.0, 100))
    assert mean_interval(np.ones((3, 100)), [0, 1] * 50, is_share=True) == pytest.approx(
        wilson_interval(1.0, 2)
    )


def test_a_share_is_worth_as_many_trials_as_its_variance_says():
    assert effective_trials(0.5, 0.25 / 40, 100) == pytest.approx(40)
    assert effective_trials(0.5, 0.25 / 400, 100) == 100
    assert effective_trials(1.0, 0.0, 30) == 30


def test_wilson_interval_is_that_of_a_worked_example():
    assert wilson_interval(0.5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert wilson_interval(1.0, 10)[0] == pytest.approx(0.7225, abs=1e-4)


def test_shares_keep_to_what_a_share_can_be():
    torn = np.stack([np.zeros(20), np.ones(20)])
    assert mean_interval(torn, None, is_share=True) == (0, 1)


def test_the_bootstrap_interval_is_deterministic_and_covers_as_it_should():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        values = rng.normal(3, 1, 50).astype(np.float32)
        low, high = bootstrap_interval(values)
        assert bootstrap_interval(values) == (low, high)
        hits += low <= 3 <= high
    assert 180 <= hits <= 199  # 95 % of 200, four standard deviations to either side
    assert bootstrap_interval(np.full(7, 2.0)) == (2.0, 2.0)
