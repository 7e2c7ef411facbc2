"""Ranking, and the Markdown that is made of it."""

from dataclasses import replace

import numpy as np
import pytest

from lgbench.errors import UserError
from lgbench.report import write_leaderboard
from lgbench.report.curves import load
from lgbench.report.ranking import rank

GRID = [256, 512, 1024, 2048, 4096, 8192]
NOTICE = "The images are procedural glyphs, not Omniglot."


def holds_until(limit):
    """Close to perfect up to `limit` tokens, chance beyond."""
    return lambda length: 0.05 if length <= limit else 0.241


@pytest.fixture
def ranked(root, store):
    for seed in range(2):
        for label, limit in (("far", 4096), ("further", 8192), ("near", 1024)):
            store(root, holds_until(limit), lengths=GRID, seed=seed, label=label, method=label)
    return root


def test_order_is_by_effective_length_and_the_longest_evaluated_length_leaves_it_open(ranked):
    table = rank(load([ranked]).boards[0])
    assert table["series"].tolist() == ["further", "far", "near"]
    assert table["rank"].tolist() == [1, 2, 3]
    assert table["effective"].tolist() == [8, 4, 1]
    assert table["is_open"].tolist() == [True, False, False]
    assert (table["effective_low"] == table["effective"]).all()
    text = write_leaderboard([ranked], ranked / "leaderboard.md").read_text()
    assert text.index("| 1 | further |") < text.index("| 2 | far |") < text.index("| 3 | near |")
    assert "≥ 8× \\[8×, 8×\\]" in text


def test_equal_effective_lengths_are_ordered_by_area(root, store):
    for label, error in (("good", 0.05), ("worse", 0.15)):
        store(root, lambda length, error=error: error, lengths=GRID, label=label)
    table = rank(load([root]).boards[0])
    assert table["effective"].tolist() == [8, 8]
    assert table["series"].tolist() == ["good", "worse"]
    assert table["area"].is_monotonic_decreasing


def test_multiples_are_of_the_own_training_length(root, store):
    store(root, holds_until(2048), lengths=GRID, label="short", train_length=256, train_high=256)
    store(root, holds_until(4096), lengths=GRID, label="long", train_length=1024)
    table = rank(load([root]).boards[0]).set_index("series")
    assert table.loc["short", ["effective", "train_length"]].tolist() == [8, 256]
    assert table.loc["long", ["effective", "train_length"]].tolist() == [4, 1024]
    assert table.at["short", "at"][16] == (4096, pytest.approx(0.241, rel=0.1))


def test_training_length_that_was_not_evaluated_is_replaced_by_the_nearest_below_and_told(root, store):
    store(root, holds_until(4096), lengths=GRID, train_length=1000, train_high=1000)
    (entry,) = rank(load([root]).boards[0]).itertuples()
    assert entry.reference_length == 512
    assert entry.effective == 4.096
    text = write_leaderboard([root], root / "leaderboard.md").read_text()
    assert "1,000 was not evaluated; the nearest evaluated length below, 512, stands for it" in text


def test_series_without_a_length_to_compare_with_comes_last_without_a_score(root, store):
    store(root, holds_until(4096), lengths=[2048, 4096], label="a")
    store(root, holds_until(512), lengths=GRID, label="b")
    table = rank(load([root]).boards[0])
    assert table["series"].tolist() == ["b", "a"]
    assert np.isnan(table["effective"].iloc[1])
    assert (
        "a: nothing was evaluated up to its L\\_train 1K"
        in write_leaderboard([root], root / "l.md").read_text()
    )


def test_diverging_at_long_lengths_counts_as_failing_there(root, store):
    store(root, holds_until(8192), lengths=GRID[:4], label="diverges")
    store(root, lengths=GRID[4:], label="diverges", status="diverged", reason="40 items have no finite score")
    store(root, holds_until(8192), lengths=GRID[:4], label="not evaluated")
    table = rank(load([root]).boards[0]).set_index("series")
    assert table.loc["diverges", ["effective", "reach", "is_open"]].tolist() == [2, 8, False]
    assert table.loc["not evaluated", ["effective", "reach", "is_open"]].tolist() == [2, 2, True]
    shared = table.at["not evaluated", "area"]
    assert table.at["diverges", "area"] == shared, "both were evaluated up to 2 times the training length"
    board = load([root]).boards[0]
    alone = replace(board, points=board.points[board.points["series"] == "diverges"])
    (entry,) = rank(alone).itertuples()
    assert entry.area == pytest.approx(shared * 1.5 / 3)


def test_areas_end_where_the_evaluation_of_all_does(root, store):
    store(root, holds_until(1024), lengths=GRID, label="far")
    store(root, holds_until(1024), lengths=GRID[:-1], label="nearer")
    store(root, holds_until(1024), lengths=[256, 1024], label="at training")
    table = rank(load([root]).boards[0]).set_index("series")
    assert table["reach"].to_dict() == {"far": 8, "nearer": 4, "at training": 1}
    assert table.at["far", "area"] == table.at["nearer", "area"] > 0
    assert table.at["far", "area_low"] == table.at["nearer", "area_low"]
    assert np.isnan(table.at["at training", "area"])


def test_seeds_without_a_value_are_counted(ranked, store_missing):
    store_missing(ranked, label="far", method="far", seed=7, status="diverged", reason="loss is NaN")
    table = rank(load([ranked]).boards[0]).set_index("series")
    assert table.loc["far", ["num_seeds", "num_seeds_run"]].tolist() == [2, 3]
    text = write_leaderboard([ranked], ranked / "leaderboard.md").read_text()
    assert "| 2 of 3 |" in text
    assert "| omniglot | small | far | diverged | 7 |  | loss is NaN |" in text


def test_interval_of_effective_length_spans_seeds_that_disagree(root, store):
    for seed, limit in enumerate([1024, 1024, 8192]):
        store(root, holds_until(limit), lengths=GRID, seed=seed)
    (entry,) = rank(load([root]).boards[0]).itertuples()
    assert (entry.effective_low, entry.effective_high) == (1, 8)
    assert entry.area_low < entry.area < entry.area_high


def test_markdown_says_how_to_read_it_how_it_was_made_and_that_data_are_procedural(root, store):
    store(root, data_source="procedural", notice=NOTICE)
    text = write_leaderboard([root], root / "leaderboard.md").read_text()
    assert "## omniglot, data: procedural, preset small" in text
    assert f"> **Note:** {NOTICE}" in text
    assert f"`lgbench leaderboard --results {root}`" in text
    assert "## How to read this" in text and "85 %" in text


def test_markdown_is_the_same_every_time_and_escapes_what_it_quotes(root, store):
    store(root, label="odd|label<script>")
    first = write_leaderboard([root], root / "leaderboard.md").read_bytes()
    assert write_leaderboard([root], root / "leaderboard.md").read_bytes() == first
    assert b"odd\\|label&lt;script>" in first
    assert b"<script" not in first


def test_folder_that_cannot_be_written_is_one_clear_error(root, store):
    store(root)
    (root / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        write_leaderboard([root], root / "file" / "leaderboard.md")


def measured(root, store, rates, **columns):
    """Store what a method reached at each length, with these tokens per second."""
    for length, rate in rates.items():
        store(root, lengths=[length], warm_tokens_per_s=rate, items_hash=str(length), **columns)


def test_speed_is_the_median_ratio_to_vanilla_of_the_same_run(root, store):
    plain = {"shared_prefix": False, "num_queries": 8}
    measured(root, store, {1024: 100.0, 2048: 100.0, 4096: 100.0}, **plain)
    measured(root, store, {1024: 50.0, 2048: 80.0, 4096: 200.0, 8192: 1.0}, label="a", method="a", **plain)
    measured(root, store, {1024: 50.0}, label="b", method="b", commit="another", **plain)
    measured(root, store, {1024: 50.0}, label="c", method="c", device="another", **plain)
    speed = rank(load([root]).boards[0]).set_index("series")["speed"]
    assert speed[["a", "vanilla"]].tolist() == pytest.approx([0.8, 1.0])
    assert speed[["b", "c"]].isna().all()
    text = write_leaderboard([root], root / "l.md").read_text()
    assert "| speed vs vanilla |" in text and "| 0.8× |" in text


def test_speed_beside_a_pass_that_served_all_lengths_counts_at_the_longest_alone(root, store):
    measured(root, store, {1024: 100.0, 2048: 100.0, 4096: 100.0}, shared_prefix=True)
    measured(root, store, {1024: 1.0, 2048: 2.0, 4096: 90.0}, label="a", method="a", shared_prefix=False)
    assert rank(load([root]).boards[0]).set_index("series").at["a", "speed"] == pytest.approx(0.9)


def test_speed_is_compared_on_the_same_backbone_where_vanilla_ran_on_it(root, store):
    measured(root, store, {1024: 100.0}, backbone="mamba")
    measured(root, store, {1024: 400.0}, backbone="mamba2")
    measured(root, store, {1024: 200.0}, backbone="mamba2", label="a", method="a")
    measured(root, store, {1024: 200.0}, backbone="decoder", label="b", method="b", num_layers=4)
    speed = rank(load([root]).boards[0]).set_index("series")["speed"]
    assert speed["a"] == pytest.approx(0.5)
    assert np.isnan(speed["b"])


def test_fits_of_all_lengths_are_summed_and_shared_ones_counted_once(root, store):
    fitted = {"label": "fitted", "method": "fitted", "num_fitted": 24, "calibration_wall_s": 30.0}
    store(root, lengths=[256, 512], assumed_length=512, **fitted)
    store(root, lengths=[1024], assumed_length=1024, items_hash="more", **fitted)
    store(root, lengths=GRID)
    table = rank(load([root]).boards[0]).set_index("series")
    assert table.loc["fitted", ["num_fitted", "calibration_wall_s"]].tolist() == [24, 60]
    assert table.loc["vanilla", ["num_fitted", "calibration_wall_s"]].tolist() == [0, 0]
    assert "| 24 in 60 s |" in write_leaderboard([root], root / "l.md").read_text()


def test_perplexities_are_ranked_by_their_logarithms(root, items):
    items(
        root,
        {1024: [np.log(10.0)] * 3, 2048: [np.log(15.0)] * 3, 4096: [np.log(90.0)] * 3},
        metric="perplexity",
        combine="exp_mean",
        best=1.0,
        chance=1000.0,
    )
    (entry,) = rank(load([root]).boards[0]).itertuples()
    assert entry.effective == 2
    halves = [(3 - np.log10(value)) / 3 for value in (10, 15, 90)]
    assert entry.area == pytest.approx((halves[0] / 2 + halves[1] + halves[2] / 2) / 2, rel=1e-5)


def test_lengths_in_documents_are_in_full(root, store):
    store(root, holds_until(4096), lengths=GRID, length_unit="documents")
    text = write_leaderboard([root], root / "l.md").read_text()
    assert "Lengths in documents" in text and "| vanilla | 1,024 |" in text
