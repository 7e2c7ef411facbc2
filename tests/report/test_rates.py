"""One learning rate of each series is shown: the best at the training length, whatever it does beyond."""

import pytest

from lgbench.report.curves import load
from lgbench.report.leaderboard import render


@pytest.fixture
def store_rates(tmp_path, store):
    """`store_rates({rate: curve}, **columns)` stores a curve for each learning rate; → the folder."""

    def write(curves, **columns):
        for rate, curve in curves.items():
            store(tmp_path / "results", curve, learning_rate=rate, **columns)
        return tmp_path / "results"

    return write


def good_until(length, beyond):
    """An error of 0.1 up to a length and another one beyond."""
    return lambda at: 0.1 if at <= length else beyond


def shown(root):
    return {rate for board in load([root]).boards for rate in board.rows["learning_rate"]}


def test_the_rate_that_is_best_at_the_training_length_is_shown_even_if_it_is_worse_beyond(store_rates):
    root = store_rates({1e-3: good_until(1024, 0.24), 2e-3: lambda at: 0.12})
    assert shown(root) == {1e-3}


def test_what_was_chosen_and_the_other_rates_are_said_in_report_and_leaderboard(store_rates):
    root = store_rates({1e-3: lambda at: 0.1, 2e-3: lambda at: 0.12})
    results = load([root])
    [sentence] = [one for one in results.left_out if "learning rates" in one]
    assert "vanilla, L_train 1,024, 20,000 steps: of several learning rates 0.001 is shown" in sentence
    assert "0.001 (0." in sentence and "0.002 (0." in sentence and sentence in results.warnings
    assert "of several learning rates 0.001 is shown" in render(results, [root])


def test_each_method_has_its_own_rate(store_rates):
    store_rates({1e-3: lambda at: 0.1, 2e-3: lambda at: 0.12})
    root = store_rates({1e-3: lambda at: 0.12, 2e-3: lambda at: 0.1}, method="prepended", label="prepended")
    [board] = load([root]).boards
    pairs = board.rows[["label", "learning_rate"]].drop_duplicates().to_numpy().tolist()
    assert sorted(map(tuple, pairs)) == [("prepended", 2e-3), ("vanilla", 1e-3)]


def test_a_seed_that_diverged_counts_nothing_for_its_rate(store_rates, store_missing):
    store_rates({1e-3: lambda at: 0.14, 2e-3: lambda at: 0.12}, seed=0)
    root = store_rates({1e-3: lambda at: 0.14}, seed=1)
    store_missing(root, seed=1, learning_rate=2e-3, status="diverged", reason="loss is NaN")
    assert shown(root) == {1e-3}


def test_trainings_that_differ_in_something_else_too_are_different_series(store_rates):
    store_rates({1e-3: lambda at: 0.1})
    root = store_rates({2e-3: lambda at: 0.12}, train_steps=40000, step=40000)
    assert shown(root) == {1e-3, 2e-3}


def test_the_first_length_beyond_the_training_has_no_say_where_the_training_length_was_not_measured(
    store_rates,
):
    root = store_rates({1e-3: good_until(512, 0.24), 2e-3: lambda at: 0.12}, lengths=(256, 512, 2048, 4096))
    assert shown(root) == {1e-3}
