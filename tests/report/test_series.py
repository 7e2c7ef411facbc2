"""Series have names that tell them apart, and their numbers are means over seeds."""

import numpy as np
import pytest

from lgbench.report.curves import load
from lgbench.report.series import summarise


@pytest.fixture
def names(store, root):
    """`names({"d_state": 16}, {})` → the names of the series of these cells."""

    def make(*cells):
        for columns in cells:
            store(root, lengths=(64, 1024), num_items=4, **columns)
        (board,) = load([root]).boards
        return sorted(set(board.points["series"]))

    return make


def test_what_varies_tells_series_of_one_label_apart(names):
    assert names({}, {"d_state": 16}) == ["vanilla (state 16)", "vanilla (state 8)"]


def test_what_is_equal_is_not_said(names):
    assert names({}, {"label": "last_window", "method": "last_window"}) == ["last_window", "vanilla"]


def test_a_backbone_without_a_state_size_has_none_in_its_name(names):
    cells = {}, {"d_state": 16}, {"backbone": "decoder", "d_state": 0}
    assert names(*cells) == ["vanilla (decoder)", "vanilla (mamba, state 16)", "vanilla (mamba, state 8)"]


def test_a_point_is_the_mean_over_seeds_of_their_means():
    found = summarise([[np.array([1.0, 3.0]), np.array([5.0, 7.0])]], None, "mean", False)
    assert found["value"].tolist() == [4.0] and found["low"][0] < 4 < found["high"][0]


def test_perplexities_are_averaged_after_their_exponential_is_taken():
    found = summarise([[np.log([2.0, 8.0]), np.log([9.0, 9.0])]], None, "exp_mean", False)
    np.testing.assert_allclose(found["value"], [(4 + 9) / 2])
