"""Rows of every schema that there was are read as rows of today's, every number as it was."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from lgbench.store import SCHEMA, Store, read

ALL = sorted(path.stem for path in (Path(__file__).parent / "schemas").glob("*.json"))
TEXTS = {"task_params", "method_params", "recipe", "references", "kept_tokens", "item_facts"}


def upgraded(path):
    reading = read([path.parents[2]])
    assert reading.unreadable == {}
    return reading.table.to_pylist(maps_as_pydicts="strict")


def test_there_is_a_fixture_of_every_past_schema():
    assert {name.split("-")[1] for name in ALL} == {"1", "2"}


@pytest.mark.parametrize("name", ALL)
def test_every_past_schema_is_read_and_its_columns_keep_their_values(old_file, name):
    path, old = old_file(name)
    new = upgraded(path)
    assert read([path.parents[2]]).table.schema.equals(SCHEMA)
    for before, after in zip(old, new, strict=True):
        for column in before.keys() - TEXTS:
            assert after[column] == before[column], column
        for column in before.keys() & {"task_params", "method_params", "recipe"}:
            values = json.loads(before[column]) if before[column] else {}
            assert {n: json.loads(text) for n, text in (after[column] or {}).items()} == values
        assert after["references"] == json.loads(before["references"])


@pytest.mark.parametrize("name", ALL)
def test_scores_of_old_files_are_the_same_bit_by_bit(old_file, name):
    path, _ = old_file(name)
    before, after = pq.read_table(path), read([path.parents[2]]).table
    for column in ("value", "ci_low", "ci_high", "std", "chance", "best", "item_values"):
        assert after[column].combine_chunks().equals(before[column].combine_chunks()), column


def test_old_finished_cells_are_finished(old_file):
    path, _ = old_file("version-1-first")
    assert Store(path.parents[2]).finished("task", path.stem), "no recipe that could ask for more"
    path, _ = old_file("version-2-last")
    assert Store(path.parents[2]).unfinished([("task", path.stem)]) == {
        ("task", path.stem): "no row for eval_length 2"
    }


def test_the_first_rows_counted_tokens_and_had_no_recipe(old_file):
    first = upgraded(old_file("version-1-first")[0])[0]
    assert (first["length_unit"], first["lm_weight"], first["combine"]) == ("tokens", 0.0, "mean")
    assert first["context_tokens"] == first["eval_length"]
    assert first["recipe"] is None and first["protocol"] is None and first["backbone_params"] == {}


def test_what_came_with_schema_3_is_null_in_older_rows_but_for_the_first_draw_of_items(old_file):
    for row in upgraded(old_file("version-2-last")[0]):
        new = ("weights_digest", "state_bytes", "item_clusters", "horizon", "learned", "context_means")
        new += ("task_identity", "method_identity", "backbone_identity")
        assert [row[name] for name in new] == [None] * len(new)
        assert row["eval_draw"] == 0


def test_kept_tokens_and_facts_of_items_are_lists_with_words_apart_from_numbers(old_file):
    path, old = old_file("version-2-last")
    images, document, windows, *_ = upgraded(path)
    assert images["kept_tokens"] == json.loads(old[0]["kept_tokens"]) and images["item_facts"] is None
    facts = json.loads(old[1]["item_facts"])
    assert document["kept_tokens"] is None and document["item_facts"] == {"place": facts.pop("place")}
    assert document["item_texts"] == facts and set(facts) == {"question", "kind"}
    assert windows["item_facts"] == json.loads(old[2]["item_facts"]) and windows["item_texts"] is None


def test_a_backbone_gets_the_sizes_that_it_took_from_the_recipe(old_file):
    def other_backbone(columns, rows):
        rows[1]["backbone"] = "mamba2"

    rows = upgraded(old_file("version-2-last", other_backbone)[0])
    assert [row["backbone"] for row in rows[:3]] == ["mamba", "mamba2", "decoder"]
    recipes = [row["recipe"] for row in rows]
    assert rows[0]["backbone_params"] == {n: recipes[0][n] for n in ("d_state", "conv_width", "init_std")}
    assert rows[1]["backbone_params"] == {n: recipes[1][n] for n in ("d_state", "conv_width")}
    assert rows[2]["backbone_params"] == {}


def without(column):
    def change(columns, rows):
        del columns[column]
        for row in rows:
            del row[column]

    return change


def with_text(column, text):
    return lambda columns, rows: rows[-1].update({column: text})


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("version-2-last", without("value"), "no column value; run its cell again with --force"),
        ("version-2-last", without("length_unit"), "no column length_unit"),
        ("version-1-last", without("metric"), "no column metric"),
        ("version-2-last", with_text("references", "{"), "references is no JSON: '{'"),
        ("version-2-last", with_text("references", "[" * 5000), "references is no JSON"),
        ("version-2-last", with_text("recipe", "[1]"), "recipe is no JSON object: '[1]'"),
        ("version-2-last", with_text("item_facts", '{"depth": 3}'), "item_facts is no JSON object of lists"),
    ],
    ids=["column", "later column", "column of 1", "torn JSON", "deep JSON", "no object", "no list"],
)
def test_what_cannot_be_upgraded_is_named_with_the_reason(old_file, name, change, reason):
    path, _ = old_file(name, change)
    assert read([path.parents[2]]).unreadable[path].startswith(reason)


def test_columns_that_came_within_a_version_may_be_missing(old_file):
    path, _ = old_file("version-2-last", without("warm_tokens_per_s"))
    assert [row["warm_tokens_per_s"] for row in upgraded(path)] == [None] * 6
