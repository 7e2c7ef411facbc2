"""Scores of curves against cases worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lgbench.stats.scores import (
    effective_length,
    in_range_best,
    normalise,
    octave_weights,
    retention_and_gain,
)


def test_scores_know_both_directions_and_go_below_zero_where_worse_than_chance():
    assert normalise([0.0, 0.1, 0.2, 0.5], 0.2, 0.0) == pytest.approx([1, 0.5, 0, -1.5])
    assert normalise([1.0, 0.55, 0.1, 0.0], 0.1, 1.0) == pytest.approx([1, 0.5, 0, -1 / 9])


def test_perplexities_are_compared_in_nats():
    assert normalise([1, 10, 100, 1000], 100, 1, "exp_mean") == pytest.approx([1, 0.5, 0, -0.5])


def test_weights_are_trapezoids_over_octaves():
    assert octave_weights([1, 2, 4], 1, 4) == pytest.approx([1 / 4, 1 / 2, 1 / 4])
    assert octave_weights([1, 2, 4, 8], 2, 4) == pytest.approx([0, 1 / 2, 1 / 2, 0])
    assert octave_weights([2, 4, 8], 4, 4) == pytest.approx([0, 1, 0])


def test_limits_between_two_lengths_are_interpolated():
    assert octave_weights([1, 2, 4], 2**0.5, 2**0.5) == pytest.approx([1 / 2, 1 / 2, 0])
    weights = octave_weights([1, 2, 4], 2**0.5, 4)
    assert weights @ [0, 1, 2] == pytest.approx(1.25), "the mean of a line is its middle"


def test_horizon_of_the_document_tasks_is_reached_in_spite_of_rounding():
    weights = octave_weights([11, 20, 40, 80, 160], 11, 160 / 11 * 11)
    assert weights.sum() == pytest.approx(1) and (weights > 0).all()


@pytest.mark.parametrize(
    "lengths",
    [[2, 4096, 8192], [2048, 4096], [512, 1024], []],
    ids=["gap", "begins late", "ends early", "empty"],
)
def test_grid_that_does_not_cover_the_octaves_has_no_mean(lengths):
    assert octave_weights(lengths, 1024, 4096) is None


def test_gaps_outside_of_the_octaves_do_no_harm_and_two_and_a_half_is_no_gap():
    assert octave_weights([1, 1024, 2048, 65536], 1024, 2048) is not None
    assert octave_weights([2, 5], 2, 5) is not None


@given(st.lists(st.floats(0, 1), min_size=2, max_size=12))
def test_means_over_octaves_lie_within_the_scores(curve):
    weights = octave_weights([2.0**k for k in range(len(curve))], 1, 2.0 ** (len(curve) - 1))
    assert min(curve) - 1e-9 <= weights @ curve <= max(curve) + 1e-9


LENGTHS = [2, 4, 8, 16, 32]


@pytest.mark.parametrize(
    ("curve", "expected", "is_open"),
    [
        ([0.5, 1.0, 1.0, 1.0, 1.0], 8.0, True),
        ([0.5, 1.0, 0.7, 0.0, 0.0], 2**0.5, False),
        ([0.5, 1.0, 0.7, 1.0, 1.0], 2**0.5, False),
        ([1.0, 0.7, 0.7, 0.7, 0.7], 2**-0.5, False),
        ([0.1, 0.5, 0.6, 0.7, 0.9], 8.0, True),
    ],
    ids=["holds to the end", "falls", "recovery does not count", "below the best before L_train", "improves"],
)
def test_effective_length_is_the_first_downward_crossing_of_the_best_in_range(curve, expected, is_open):
    assert effective_length(LENGTHS, curve, 4) == (pytest.approx(expected), is_open)


def test_effective_length_of_nothing_learned_is_undefined():
    assert np.isnan(effective_length(LENGTHS, [0, 0, 0.5, 0.5, 0.5], 4)[0])
    assert np.isnan(effective_length([8, 16], [1.0, 1.0], 4)[0])


def test_a_hundredth_around_the_threshold_does_not_double_the_effective_length():
    """On a discrete grid 0.842 gave 1× and 0.850 gave 1.82×."""
    lengths = [11, 20, 40]
    below, above = (effective_length(lengths, [1.0, level, 0.4], 11)[0] for level in (0.842, 0.858))
    assert above / below < 1.07


def test_an_error_at_the_training_length_alone_does_not_lengthen_what_holds():
    """35 % worse at L_train alone lifted a method from 8× to at least 32×, as its own score was the bar."""
    lengths = [2**k for k in range(6, 16)]
    curve = np.where(np.array(lengths) <= 8192, 0.9, 0.6)
    worse = np.where(np.array(lengths) == 1024, 0.65, curve)
    assert effective_length(lengths, worse, 1024)[0] <= effective_length(lengths, curve, 1024)[0]


def test_best_in_range_ignores_what_is_beyond():
    assert in_range_best(LENGTHS, [0.1, 0.3, 0.9, 0.9, 0.9], 4) == 0.3
    assert np.isnan(in_range_best(LENGTHS, [0.1] * 5, 1))


def test_retention_shows_what_is_worse_than_chance_and_gain_what_is_better_than_in_range():
    weights = np.array([0.25, 0.5, 0.25])
    retention, gain = retention_and_gain([4, 8, 16], [0.6, 1.0, -2.0], 4, weights)
    assert retention == pytest.approx(0.25 * 0.6 + 0.5 * 0.6 - 0.25 * 2)
    assert gain == pytest.approx(0.5 * 0.4)
