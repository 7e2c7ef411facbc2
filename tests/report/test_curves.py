"""From rows to boards, series and points."""

import numpy as np
import pytest

from lgbench.errors import UserError
from lgbench.report.curves import load
from lgbench.store import Store


def test_mean_is_over_seeds_of_the_means_over_items(root, make_row):
    for seed, items in enumerate([[1.0, 2.0], [5.0, 6.0]]):
        row = make_row(
            cell=f"c{seed}", seed=seed, value=float(np.mean(items)), item_values=items, num_items=2
        )
        Store(root).write("omniglot", f"c{seed}", [row])
    (point,) = load([root]).boards[0].points.itertuples()
    assert point.value == 3.5
    assert (point.low, point.high) == (1.0, 6.0)
    assert (point.num_seeds, point.num_items) == (2, 2)


def test_rows_without_a_value_are_listed_and_never_averaged(root, store, store_missing):
    store(root, seed=0)
    alone = load([root])
    store_missing(root, cell="a", seed=1, status="diverged", reason="loss is NaN at step 812")
    store(root, seed=2, lengths=[1024], status="diverged", reason="3 items have no finite score")
    results = load([root])
    assert results.boards[0].points["value"].tolist() == alone.boards[0].points["value"].tolist()
    assert results.boards[0].points["num_seeds"].max() == 1
    (outcome,) = results.missing.itertuples()
    assert (outcome.method, outcome.outcome, outcome.seeds) == ("vanilla", "diverged", "1, 2")
    assert outcome.where == "1K tokens"
    assert outcome.reason == "loss is NaN at step 812; 3 items have no finite score"
    assert any("vanilla, seed 1, 2: diverged" in warning for warning in results.warnings)


def test_ok_row_without_a_finite_value_counts_as_not_measured(root, store, make_row):
    store(root, seed=0)
    Store(root).write("omniglot", "bad", [make_row(cell="bad", seed=1, value=float("inf"), item_values=None)])
    results = load([root])
    assert np.isfinite(results.boards[0].points["value"]).all()
    assert results.missing["outcome"].tolist() == ["value is not a finite number"]


def test_only_results_without_a_value_are_still_results(root, store_missing):
    results = load([store_missing(root, reason="no such kernel")])
    assert results.boards == []
    assert results.missing["reason"].tolist() == ["no such kernel"]


def test_unreadable_file_is_named_and_the_rest_is_used(root, store):
    store(root)
    torn = root / "rows" / "omniglot" / "torn.parquet"
    torn.write_bytes(b"PAR1 and then the power went")
    results = load([root])
    assert len(results.boards) == 1
    assert any(str(torn) in warning for warning in results.warnings)
    assert torn.exists()


def test_empty_store_says_what_to_run(root):
    root.mkdir()
    with pytest.raises(UserError, match=r"no results in .*results\. Make some with: lgbench run"):
        load([root])
    with pytest.raises(UserError, match="no results folder"):
        load([root / "nowhere"])


def test_data_sets_presets_and_task_parameters_are_never_mixed(root, store):
    store(root)
    store(root, data_source="procedural")
    store(root, preset="smoke")
    store(root, task_params='{"augment": false}')
    store(root, task_params='{"augment": true}', data_fingerprint="beef")
    titles = [board.title for board in load([root]).boards]
    assert len(titles) == len(set(titles)) == 5
    assert "omniglot, data: procedural, preset small" in titles
    assert "omniglot[augment=False], data: omniglot-small, version f00d, preset small" in titles


def test_series_of_one_label_are_told_apart_by_what_differs(root, store):
    store(root, train_length=256, train_high=256)
    store(root, train_length=1024)
    store(root, train_length=1024, num_layers=16)
    store(root, label="prepended", method="prepended")
    assert load([root]).boards[0].series == [
        "prepended",
        "vanilla (trained on 256, 8 layers)",
        "vanilla (trained on 1K, 8 layers)",
        "vanilla (trained on 1K, 16 layers)",
    ]


def test_figures_show_the_end_of_training_and_keep_earlier_steps(root, store):
    store(root, steps=[1000, 20000])
    board = load([root]).boards[0]
    assert board.series == ["vanilla"]
    assert set(board.points["step"]) == {1000, 20000}
    assert set(board.curve("context")["step"]) == {20000}


def test_measurement_before_the_end_of_training_is_pointed_out(root, store):
    store(root, step=5000)
    assert any("measured after 5,000 steps" in warning for warning in load([root]).warnings)


def test_same_cell_in_two_folders_counts_once(root, tmp_path, store):
    store(root)
    copy = store(tmp_path / "copy")
    results = load([root, copy])
    assert (
        results.boards[0].points["num_seeds"].tolist() == load([root]).boards[0].points["num_seeds"].tolist()
    )
    assert results.warnings == []


def test_different_cells_that_look_the_same_use_the_newest_and_warn(root, store):
    store(root, lambda length: 0.2)
    store(root, lambda length: 0.1, created_at="2026-02-01T00:00:00Z")
    results = load([root])
    assert results.boards[0].points["value"].max() < 0.15
    assert any("newest" in warning for warning in results.warnings)


def test_runs_on_different_items_are_pointed_out(root, store):
    store(root)
    store(root, label="prepended", items_hash="others")
    assert any("not paired" in warning for warning in load([root]).warnings)
