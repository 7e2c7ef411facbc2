"""All pairs at once, Holm, letters."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lgbench.stats.intervals import estimate
from lgbench.stats.letters import letters
from lgbench.stats.pairs import all_pairs, detectable, holm


@pytest.mark.parametrize("num_clusters", [4, 30])
def test_all_pairs_are_the_paired_differences_on_common_seeds(num_clusters):
    rng = np.random.default_rng(0)
    tables = [rng.normal(size=(seeds, num_clusters)) for seeds in (3, 5, 4, 5)]
    found = all_pairs(tables)
    for a, one in enumerate(tables):
        for b, other in enumerate(tables):
            common = min(len(one), len(other))
            expected = estimate(one[:common] - other[:common])
            assert found.mean[a, b] == pytest.approx(expected.mean)
            assert found.variance[a, b] == pytest.approx(expected.variance)
            if a != b:
                assert found.freedom[a, b] == pytest.approx(expected.freedom)


def test_a_series_does_not_differ_from_its_copy():
    table = np.random.default_rng(0).normal(size=(3, 20))
    found = all_pairs([table, table.copy(), table + 1])
    assert found.p_value()[0, 1] == 1
    assert found.p_value()[0, 2] < 1e-6


def test_holm_multiplies_the_smallest_most_and_never_lowers():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]).size == 0


def test_letters_of_a_worked_example():
    differ = np.zeros((4, 4), bool)
    for a, b in ((0, 2), (0, 3), (1, 3)):
        differ[a, b] = differ[b, a] = True
    assert letters(differ) == ["a", "ab", "bc", "c"]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 7), st.randoms(use_true_random=False))
def test_series_share_a_letter_exactly_where_they_do_not_differ(num, chance):
    differ = np.zeros((num, num), bool)
    for a in range(num):
        for b in range(a):
            differ[a, b] = differ[b, a] = chance.random() < 0.4
    shown = letters(differ)
    for a in range(num):
        for b in range(num):
            assert a == b or bool(set(shown[a]) & set(shown[b])) != differ[a, b]


def test_smallest_detectable_difference_is_the_median_half_width():
    assert detectable([0.1, 0.3, np.nan, 0.2]) == pytest.approx(0.2)
    assert np.isnan(detectable([np.nan]))
