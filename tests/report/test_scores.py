"""Statistics of curves against cases worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lgbench.report import scores
from lgbench.report.scores import (
    area,
    bootstrap_means,
    effective_length,
    interval,
    normalised_score,
    resample_counts,
)


def test_each_resample_draws_as_many_as_there_are_and_repeats_exactly():
    counts = resample_counts(7, "items")
    assert counts.shape == (scores.NUM_RESAMPLES, 7)
    assert (counts.sum(axis=1) == 7).all()
    resample_counts.cache_clear()
    assert np.array_equal(counts, resample_counts(7, "items"))
    assert not np.array_equal(counts, resample_counts(7, "other items"))


def test_two_seeds_with_equal_items_give_their_two_values_and_the_middle():
    replicates = bootstrap_means({0: ([1.0, 1.0, 1.0], "a"), 1: ([3.0, 3.0, 3.0], "a")}, [0, 1])
    assert set(np.round(replicates, 12)) == {1.0, 2.0, 3.0}
    assert np.mean(replicates == 2.0) == pytest.approx(0.5, abs=0.06)
    assert interval(replicates) == (1.0, 3.0)


def test_one_seed_with_three_items_follows_the_binomial_distribution():
    replicates = bootstrap_means({0: ([0.0, 0.0, 3.0], "a")}, [0])
    shares = [np.mean(np.isclose(replicates, k)) for k in range(4)]
    assert shares == pytest.approx([8 / 27, 12 / 27, 6 / 27, 1 / 27], abs=0.05)
    assert interval(replicates) == (0.0, 3.0)


def test_interval_over_many_items_is_that_of_the_normal_approximation():
    items = np.random.default_rng(0).normal(5, 2, 2000)
    low, high = interval(bootstrap_means({0: (items, "a")}, [0]))
    assert high - low == pytest.approx(2 * 1.96 * items.std() / np.sqrt(2000), rel=0.1)
    assert low < items.mean() < high


def test_interval_over_seeds_contains_that_over_items():
    rng = np.random.default_rng(1)
    items = {seed: (rng.normal(seed, 1, 200), "a") for seed in range(3)}
    one, three = bootstrap_means({0: items[0]}, [0]), bootstrap_means(items, [0, 1, 2])
    assert np.ptp(interval(three)) > 2 * np.ptp(interval(one))


def test_curves_on_the_same_items_are_paired_and_others_are_not():
    items = np.random.default_rng(2).normal(0, 1, 50)
    first = bootstrap_means({0: (items, "same")}, [0])
    assert np.allclose(bootstrap_means({0: (items + 0.5, "same")}, [0]) - first, 0.5)
    assert np.ptp(bootstrap_means({0: (items + 0.5, "different")}, [0]) - first) > 0.1


def test_seed_missing_at_a_point_keeps_the_draw_of_the_others():
    both = bootstrap_means({0: ([1.0], "a"), 1: ([3.0], "a")}, [0, 1])
    alone = bootstrap_means({0: ([1.0], "a")}, [0, 1])
    assert np.array_equal(np.isnan(alone), both == 3.0)
    assert interval(alone) == (1.0, 1.0)


def test_normalised_score_is_clipped_and_knows_both_directions():
    assert normalised_score([0.0, 0.1, 0.2, 0.5], 0.2, 0.0) == pytest.approx([1, 0.5, 0, 0])
    assert normalised_score([1.0, 0.55, 0.1, 0.0], 0.1, 1.0) == pytest.approx([1, 0.5, 0, 0])


LENGTHS = [2, 4, 8, 16, 32]


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        ([0.5, 1.0, 1.0, 1.0, 1.0], 8.0),
        ([0.5, 1.0, 0.9, 0.2, 0.1], 2.0),
        ([0.5, 1.0, 0.2, 1.0, 1.0], 1.0),
        ([0.5, 0.4, 0.36, 0.35, 0.3], 4.0),
        ([0.9, 0.0, 0.5, 0.5, 0.5], 0.0),
        ([0.1, 0.5, 0.6, 0.7, 0.1], 4.0),
    ],
    ids=["holds to the end", "falls", "recovery does not count", "relative", "learned nothing", "improves"],
)
def test_effective_length_of_curves_trained_at_four(curve, expected):
    assert effective_length(LENGTHS, curve, 4) == expected


def test_effective_length_compares_with_the_nearest_length_below():
    assert effective_length(LENGTHS, [0.1, 1.0, 0.9, 0.1, 0.1], 5) == 8 / 5
    assert effective_length(LENGTHS, [0.1, 1.0, 0.1, 0.1, 0.1], 5) == 4 / 5
    with pytest.raises(ValueError, match="no evaluated length up to the training length 1"):
        effective_length(LENGTHS, [1.0] * 5, 1)


def test_effective_length_and_area_work_on_replicates():
    curves = np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    assert effective_length([4, 8, 16], curves, 4).tolist() == [2.0, 4.0]
    assert area([4, 8, 16], curves, 4).tolist() == [0.75, 1.0]


def test_area_ends_between_evaluated_lengths_where_it_is_told():
    lengths, scores = [4, 8, 32], [1.0, 0.5, 0.0]
    assert area(lengths, scores, 4, end=16) == pytest.approx((0.75 + 0.375) / 2)
    assert area(lengths, scores, 4, end=8) == area(lengths[:2], scores[:2], 4) == 0.75
    assert area(lengths, scores, 4, end=64) == area(lengths, scores, 4)
    assert area(lengths, [scores, scores[::-1]], 4, end=6).shape == (2,)


def test_area_weighs_octaves_equally_and_starts_at_the_training_length():
    assert area([1, 4, 8, 32], [0.0, 1.0, 0.5, 0.5], 4) == pytest.approx((0.75 + 2 * 0.5) / 3)
    assert np.isnan(area([1, 4], [0.0, 1.0], 4))


@given(st.lists(st.floats(0, 1), min_size=2, max_size=12), st.data())
def test_effective_length_is_an_evaluated_multiple_and_area_lies_within_the_scores(curve, data):
    lengths = [2**k for k in range(len(curve))]
    start = data.draw(st.integers(0, len(curve) - 2))
    effective = float(effective_length(lengths, curve, lengths[start]))
    assert effective in {0.0, *(length / lengths[start] for length in lengths[start:])}
    assert (
        min(curve[start:]) - 1e-9 <= float(area(lengths, curve, lengths[start])) <= max(curve[start:]) + 1e-9
    )


def test_perplexities_are_resampled_as_means_of_logarithms():
    replicates = bootstrap_means({0: (np.log([2.0, 8.0]), "a")}, [0], "exp_mean")
    assert sorted(set(np.round(replicates, 9))) == [2, 4, 8]
    seeds = bootstrap_means({0: (np.log([2.0]), "a"), 1: (np.log([8.0]), "a")}, [0, 1], "exp_mean")
    assert sorted(set(np.round(seeds, 9))) == [2, 5, 8]


def test_perplexities_are_compared_as_their_logarithms():
    assert normalised_score([1, 10, 100, 1000], 100, 1, "exp_mean") == pytest.approx([1, 0.5, 0, 0])
