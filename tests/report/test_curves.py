"""From rows to boards, series and points."""

import numpy as np
import pytest

from lgbench.errors import UserError
from lgbench.report.curves import load
from lgbench.stats.intervals import wilson_interval
from lgbench.store import Store


def test_mean_is_over_seeds_of_the_means_over_items(root, make_row):
    for seed, items in enumerate([[1.0, 2.0], [5.0, 6.0]]):
        row = make_row(
            cell=f"c{seed}",
            seed=seed,
            value=float(np.mean(items)),
            item_values=items,
            num_items=2,
            chance=9.0,
        )
        Store(root).write("omniglot", f"c{seed}", [row])
    (point,) = load([root]).boards[0].points.itertuples()
    assert point.value == 3.5
    assert (point.high - point.low) / 2 == pytest.approx(12.706 * 2, rel=1e-3), "two seeds, Student's t"
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
    store(root, task_params={"augment": "false"})
    store(root, task_params={"augment": "true"}, data_fingerprint="beef")
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
        "vanilla (trained on 256, 8 layers)",
        "vanilla (trained on 1K, 8 layers)",
        "vanilla (trained on 1K, 16 layers)",
        "prepended",
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


def test_a_cell_from_the_future_is_pointed_out_and_is_not_the_newest(root, store):
    store(root, lambda length: 0.2, created_at="2096-01-01T00:00:00Z")
    store(root, lambda length: 0.1)
    results = load([root])
    assert results.boards[0].points["value"].max() < 0.15
    assert any("2096-01-01T00:00:00Z, in the future" in sentence for sentence in results.left_out)


def test_a_cell_that_folders_have_different_values_of_is_pointed_out(root, tmp_path, store, make_row):
    for folder, value in ((root, 0.2), (tmp_path / "other", 0.1)):
        row = make_row(cell="one")
        row |= {"value": value, "item_values": [value] * len(row["item_values"])}
        Store(folder).write("omniglot", row["cell"], [row])
    results = load([root, tmp_path / "other"])
    assert [sentence for sentence in results.left_out if "folders have different values of it" in sentence]


def test_runs_on_different_items_are_pointed_out(root, store):
    store(root)
    store(root, label="prepended", items_hash="others")
    assert any("not paired" in warning for warning in load([root]).warnings)


PERPLEXITY = {"metric": "perplexity", "combine": "exp_mean", "best": 1.0, "chance": 20.0}
ACCURACY = {"metric": "accuracy", "higher_is_better": True, "best": 1.0, "chance": 0.0}


def test_perplexity_is_the_exponential_of_the_mean_over_items_and_then_the_mean_over_seeds(root, items):
    items(root, {1024: np.log([2.0, 8.0]).tolist()}, seed=0, **PERPLEXITY)
    items(root, {1024: np.log([1.0, 4.0]).tolist()}, seed=1, **PERPLEXITY)
    (point,) = load([root]).boards[0].points.itertuples()
    assert point.value == pytest.approx((4 + 2) / 2)
    assert 0 < point.low < point.value < point.high
    assert point.low * point.high == pytest.approx(point.value**2), "symmetric in nats"


def test_perplexity_of_a_row_that_keeps_no_items_is_its_value(root, make_row):
    row = make_row(cell="c", value=4.0, item_values=None, **PERPLEXITY)
    Store(root).write("omniglot", "c", [row])
    assert load([root]).boards[0].points["value"].tolist() == pytest.approx([4.0])


def test_shares_have_at_least_wilsons_interval_of_their_distinct_items(root, items):
    for seed in range(2):
        items(root, {1024: [1.0] * 10, 2048: [float(seed)] * 10}, seed=seed, **ACCURACY)
    board = load([root]).boards[0]
    assert board.is_binary
    certain, torn = board.points.itertuples()
    assert (certain.low, certain.high) == pytest.approx(wilson_interval(1.0, 10))
    assert (torn.low, torn.high) == (0, 1)


def test_a_metric_between_zero_and_one_does_not_get_wilsons_interval(root, items):
    items(root, {1024: [1.0] * 10, 2048: [0.0, 0.5]}, **ACCURACY | {"metric": "f1"})
    board = load([root]).boards[0]
    assert not board.is_binary
    assert board.points["low"].iloc[0] == board.points["high"].iloc[0] == 1


def test_boards_of_a_task_follow_one_another_with_the_headline_metric_first(root, make_row):
    rows = [
        make_row(cell="c", task="retrieval", metric=metric, eval_length=length)
        for length in (1024, 2048)
        for metric in ("keyword", "answered", "question")
    ]
    Store(root).write("retrieval", "c", rows)
    Store(root).write("averaging", "d", [make_row(cell="d", task="averaging", metric="zeta")])
    boards = load([root]).boards
    assert [(board.metric, board.rank) for board in boards] == [
        ("zeta", 0), ("keyword", 0), ("answered", 1), ("question", 2)
    ]  # fmt: skip


def test_a_seed_that_was_lost_before_any_metric_is_missing_on_every_board_of_the_task(
    root, store, store_missing
):
    for metric in ("keyword", "question"):
        store(root, metric=metric)
    store_missing(root, seed=7, metric="keyword", status="diverged", reason="loss is NaN")
    assert [board.missing["seed"].tolist() for board in load([root]).boards] == [[7], [7]]


def test_backbones_and_weights_of_the_language_loss_tell_series_apart(root, store):
    for backbone, weight in (("mamba", 0.0), ("mamba", 0.1), ("mamba2", 0.1)):
        store(root, backbone=backbone, lm_weight=weight)
    assert load([root]).boards[0].series == [
        "vanilla (mamba, LM weight 0)",
        "vanilla (mamba, LM weight 0.1)",
        "vanilla (mamba2, LM weight 0.1)",
    ]


def test_an_uncommon_weight_of_the_language_loss_is_named_though_the_method_has_but_one(root, store):
    for method, weight in (("vanilla", 0.1), ("slow_clock", 0.1), ("decoder", 1.0)):
        store(root, method=method, label=method, lm_weight=weight)
    assert sorted(load([root]).boards[0].series) == ["decoder (LM weight 1)", "slow_clock", "vanilla"]


def test_documents_are_counted_in_full_wherever_lengths_are_named(root, store):
    documents = {"length_unit": "documents", "train_low": 2}
    store(root, lengths=[11, 300], train_length=11, train_high=11, **documents)
    store(root, lengths=[11, 300], train_length=2048, train_high=2048, **documents)
    store(root, lengths=[2048], seed=5, train_length=11, train_high=11, status="diverged", **documents)
    results = load([root])
    assert results.boards[0].series == ["vanilla (trained on 11)", "vanilla (trained on 2,048)"]
    assert results.missing["where"].tolist() == ["2,048 documents"]


def test_names_of_files_are_short_and_never_shared_by_two_boards(root, store):
    sources = ["squad dev-v2.0 (split by article), 6,568 paragraphs of books, bpe", "squad dev-v2.0, bytes"]
    for fingerprint, source in zip(("aaaaaaaaaaaa", "bbbbbbbbbbbb"), sources, strict=True):
        store(root, task="document_retrieval", data_source=source, data_fingerprint=fingerprint)
    slugs = [board.slug for board in load([root]).boards]
    plain = "document-retrieval-squad-dev-v2-0-small-mse"
    assert sorted(slugs) == [plain, f"{plain}-bbbbbbbb"]


def test_another_draw_of_items_is_a_board_of_its_own_and_says_so(root, store):
    for draw in (0, 1):
        store(root, eval_draw=draw, items_hash=f"draw {draw}")
    first, second = load([root]).boards
    assert second.title == f"{first.title}, evaluation draw 1"
    assert first.slug != second.slug and "draw-1" in second.slug
    assert load([root]).left_out == []
