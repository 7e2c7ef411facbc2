"""A trained cell becomes complete rows: paired items, references, provenance, honest statuses."""

import hashlib
import json

import numpy as np
import pytest

import lgbench
from lgbench.plan.cells import checkpoint_folder
from lgbench.run import checkpoint
from lgbench.run.measure import EVAL_SEED, Items, failure_path, run_cell, unmeasured_row
from lgbench.store import SCHEMA, Store, read

QUICK = dict(train_steps=[2], eval_lengths=(1, 16, 32), query_grid=(1, 4))


@pytest.fixture
def trained(toy_cells, run_toy):
    """`trained("vanilla,prepended")` → the trained and stored cells, and the store."""

    def build(*methods, **numbers):
        cells = toy_cells(*methods, **{**QUICK, **numbers})
        outcome, store = run_toy(cells)
        assert {status for _, status, _ in outcome.failed} <= {"diverged"}
        return cells, store

    return build


def rows_of(store, cell):
    return [row for row in read([store.root]).table.to_pylist() if row["cell"] == cell.key]


def test_a_cell_has_one_complete_row_for_every_point_of_both_axes(trained, toy_task):
    (cell,), store = trained("vanilla")
    rows = run_cell(cell, toy_task, Items(toy_task, cell.recipe.eval_items), store)
    assert [set(row) for row in rows] == [set(SCHEMA.names)] * 5
    points = [(row["axis"], row["eval_length"], row["num_queries"]) for row in rows]
    assert points == [("context", n, 8) for n in (1, 16, 32)] + [("queries", 16, n) for n in (1, 4)]
    for row in rows:
        assert row["status"] == "ok" and row["reason"] == ""
        assert row["value"] == pytest.approx(np.mean(row["item_values"]), rel=1e-6)
        assert row["std"] == pytest.approx(np.std(row["item_values"], ddof=1), rel=1e-5)
        assert row["ci_low"] <= row["value"] <= row["ci_high"]
        assert len(row["item_values"]) == row["num_items"] == 6
        assert row["eval_tokens_per_s"] > 0 and row["peak_bytes"] > 0


def test_rows_say_where_they_come_from(trained, toy_task):
    (cell,), store = trained("truncated[low=3]", seeds=[5])
    for row in rows_of(store, cell):
        assert row["training"] == cell.training.key
        assert (row["task"], row["method"], row["label"]) == ("toy_average", "truncated", "truncated[low=3]")
        assert dict(row["method_params"]) == {"low": "3"}
        assert dict(row["task_params"]) == {"noise": "0.5", "worth": "1.0"}
        assert (row["train_low"], row["train_high"], row["train_length"]) == (3, 16, 16)
        assert (row["seed"], row["step"], row["train_steps"], row["batch_size"]) == (5, 2, 2, 4)
        assert (row["backbone"], row["num_layers"], row["d_model"], row["d_state"]) == ("mamba", 2, 16, 4)
        assert (row["device"], row["scan_backend"], row["preset"]) == ("cpu", "torch", "smoke")
        assert (row["data_source"], row["data_fingerprint"]) == ("procedural", "toy")
        assert (row["metric"], row["best"], row["higher_is_better"]) == ("squared error", 0.0, False)
        assert row["package_version"] == lgbench.__version__
        assert row["train_wall_s"] > 0 and row["train_tokens_per_s"] > 0 and row["train_loss"] > 0
        text = (store.root / "environments" / f"{row['environment']}.json").read_text()
        assert json.loads(text)["packages"]["torch"]
        assert hashlib.sha256(text.rstrip("\n").encode()).hexdigest()[:12] == row["environment"]


def test_a_transformer_has_no_state_size_and_names_its_attention(trained):
    (cell,), store = trained("transformer")
    assert {(r["d_state"], r["scan_backend"], r["backbone"]) for r in rows_of(store, cell)} == {
        (0, "sdpa", "encoder_decoder")
    }


def test_all_methods_and_seeds_answer_the_same_items(trained, toy_task):
    cells, store = trained("vanilla,prepended,transformer,toy_shrink", seeds=[0, 1])
    rows = read([store.root]).table.to_pylist()
    assert {row["cell"] for row in rows} == {cell.key for cell in cells}
    assert {row["items_hash"] for row in rows} == {toy_task.eval_set(6, EVAL_SEED).fingerprint}
    by_queries = {(row["num_queries"], row["chance"], tuple(row["references"])) for row in rows}
    assert len(by_queries) == len({row["num_queries"] for row in rows}) > 1
    values = {tuple(row["item_values"]) for row in rows if row["eval_length"] == 32}
    assert len(values) == len(cells), "different models, so different answers"


def test_another_draw_asks_all_methods_other_items_of_the_same_weights(trained, toy_task):
    first, _ = trained("vanilla,prepended")
    cells, store = trained("vanilla,prepended", eval_draw=1)
    assert [cell.training.key for cell in cells] == [cell.training.key for cell in first]
    assert {cell.key for cell in cells}.isdisjoint(cell.key for cell in first)
    hashes = {}
    for row in read([store.root]).table.to_pylist():
        hashes.setdefault(row["eval_draw"], set()).add(row["items_hash"])
    assert hashes == {draw: {toy_task.eval_set(6, EVAL_SEED + draw).fingerprint} for draw in (0, 1)}


def test_items_of_an_edited_task_are_not_paired_with_the_old_ones(toy_task, monkeypatch):
    found = set()
    for identity in ("v1", "v2", "an edited file", "another edit"):
        monkeypatch.setattr(toy_task, "identity", identity)
        found.add(Items(toy_task, 6).fingerprint)
    assert len(found) == 4


def test_chance_is_computed_on_the_items(toy_task):
    few, many = Items(toy_task, 3), Items(toy_task, 400)
    assert many.references(8, toy_task.metric)["chance"] == pytest.approx(1, abs=0.15)
    assert few.references(8, toy_task.metric)["chance"] != many.references(8, toy_task.metric)["chance"]
    assert few.items.fingerprint != many.items.fingerprint


def test_a_training_free_method_is_measured_with_the_weights_of_the_method_it_trains_like(trained):
    cells, store = trained("vanilla,toy_shrink")
    folders = list((store.root / "checkpoints").iterdir())
    assert folders == [checkpoint_folder(store.root, cells[0].training)]
    vanilla, shrink = (rows_of(store, cell) for cell in cells)
    assert {r["train_loss"] for r in vanilla} == {r["train_loss"] for r in shrink}
    assert [r["value"] for r in vanilla] != [r["value"] for r in shrink]


def test_a_cell_is_measured_with_the_weights_of_its_step(trained):
    cells, store = trained("vanilla", train_steps=[8], eval_at_steps=[1, 4], learning_rate=0.1)
    values = [rows_of(store, cell)[0]["value"] for cell in cells]
    assert [cell.step for cell in cells] == [1, 4, 8] and len(set(values)) == 3
    (short,), other = trained("vanilla", train_steps=[4], learning_rate=0.1)
    assert short.training.key != cells[1].training.key
    assert rows_of(other, short)[0]["value"] == values[1]


def test_missing_weights_are_an_error_that_names_them(toy_cells, toy_task, tmp_path):
    (cell,) = toy_cells("vanilla", **QUICK)
    with pytest.raises(FileNotFoundError, match=cell.training.key):
        run_cell(cell, toy_task, Items(toy_task, 6), Store(tmp_path))


def test_scores_that_are_not_finite_are_a_diverged_row_without_a_value(trained):
    (cell,), store = trained("toy_trouble[kind=nan,when=evaluation]")
    for row in rows_of(store, cell):
        assert row["status"] == "diverged" and row["reason"] == "6 items have no finite score"
        assert row["value"] is row["ci_low"] is row["ci_high"] is row["std"] is None
        assert not np.isfinite(row["item_values"]).any()


def test_a_cell_without_numbers_is_one_row_with_status_and_reason(toy_cells, toy_task, tmp_path):
    (cell,) = toy_cells("vanilla")
    store = Store(tmp_path)
    row = unmeasured_row(cell, toy_task, store, "out_of_memory", "too big")
    assert set(row) == set(SCHEMA.names)
    store.write(cell.task, cell.key, [row])
    (stored,) = rows_of(store, cell)
    assert (stored["status"], stored["reason"], stored["axis"]) == ("out_of_memory", "too big", "context")
    assert stored["value"] is None and stored["eval_length"] is None
    assert stored["label"] == "vanilla" and stored["environment"]


def test_tracebacks_lie_beside_the_rows(toy_cells, tmp_path):
    (cell,) = toy_cells("vanilla")
    assert failure_path(tmp_path, cell) == tmp_path / "failures" / f"{cell.key}.txt"


def test_weights_are_shared_but_never_read_from_another_seed(trained):
    cells, store = trained("vanilla", seeds=[0, 1])
    loaded = [
        checkpoint.load(checkpoint.weights_path(checkpoint_folder(store.root, c.training), 2)) for c in cells
    ]
    assert all(loaded)
    assert (loaded[0][0]["interface.embed.weight"] != loaded[1][0]["interface.embed.weight"]).any()
