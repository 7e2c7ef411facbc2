"""Somebody's rows are judged cell by cell; every forgery here was made from rows that are accepted."""

import hashlib
import json
import shutil

import pyarrow as pa
import pytest

from lgbench.answers.export import export
from lgbench.answers.submit import examine, merge
from lgbench.errors import UserError
from lgbench.plan.rekey import new_keys
from lgbench.store import SCHEMA, read
from lgbench.store.rows_file import read_rows, write_rows
from lgbench.store.verify import verify


def judged(path, ours):
    return examine(path, ours, new_keys)


@pytest.fixture
def forge(toy_store):
    """`forge(change)` applies `change(row)` to every row of one cell; → the folder.

    The forger writes the file through the front door, so that its checksums are right.
    """

    def write(change):
        path = sorted(toy_store.rglob("*.parquet"))[0]
        rows = read_rows(path).to_pylist(maps_as_pydicts="strict")
        rows = [row for row in rows if change(row) is not False]
        write_rows(path, pa.Table.from_pylist(rows, schema=SCHEMA))
        return toy_store

    return write


def refusals(folder, ours):
    return [sentence for verdict in judged(folder, ours).verdicts for sentence in verdict.problems]


def test_a_real_run_is_accepted_as_a_folder_and_as_a_file_and_merged_whole(toy_store, tmp_path):
    export([toy_store], "parquet", tmp_path / "mine.parquet")
    for number, path in enumerate((toy_store, tmp_path / "mine.parquet")):
        ours = tmp_path / f"ours{number}"
        found = judged(path, ours)
        assert found.is_accepted and len(found.tables) == 3
        assert all("to compare its items" in verdict.notes[0] for verdict in found.verdicts)
        assert merge(found, ours) == 3
        assert read([ours]).table.equals(read([toy_store]).table)
        assert not [finding for finding in verify(ours) if finding.problem]


def test_what_we_have_already_is_known_and_written_no_second_time(toy_store):
    found = judged(toy_store, toy_store)
    assert found.is_accepted and not found.tables and all(v.is_known for v in found.verdicts)


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("created_at", "2031-01-01T00:00:00+00:00", "expected a time from"),
        ("created_at", "yesterday", "no ISO 8601"),
        ("created_at", "2026-01-01T00:00:00", "no time zone"),
        ("package_version", "new", "no version"),
        ("package_version", "9.9.9", "its environment says"),
        ("commit", "HEAD", "commit is no hash"),
        ("device", "NVIDIA H100", "its environment says cpu"),
        ("environment", "0123456789ab", "did not come with it"),
        ("eval_wall_s", -1.0, "eval_wall_s is -1"),
        ("train_wall_s", float("inf"), "train_wall_s is inf"),
        ("train_wall_s", 0.0, "took no time"),
        ("step", 9, "step 9 of a training of 2 steps"),
        ("train_steps", 4, "its recipe says 2"),
        ("weights_digest", "abc", "no hash of 64 digits"),
        ("weights_digest", None, "null in weights_digest"),
        ("seed", None, "null in seed"),
        ("seed", 7, "its cell is"),
        ("method_params", {"low": "1"}, "its keys cannot be verified"),
        ("value", 1e-9, "the mean of its items"),
        ("chance", 0.0, "chance equals the best value"),
        ("ci_high", -1.0, "not within its own interval"),
        ("training", "0" * 16, "its training is"),
        ("status", "failed", "not complete"),
        ("task", "../../evil", "no file names"),
    ],
)
def test_a_forged_column_is_refused(forge, tmp_path, column, value, words):
    folder = forge(lambda row: row.update({column: value}))
    found = judged(folder, tmp_path / "ours")
    (bad,) = [verdict for verdict in found.verdicts if verdict.problems]
    assert words in " ".join(bad.problems) and len(found.tables) == 2


def test_a_missing_length_is_refused(forge, tmp_path):
    folder = forge(lambda row: row["eval_length"] != 16)
    assert "not complete: no row for eval_length 16" in refusals(folder, tmp_path / "ours")[0]


def test_a_doubled_measurement_is_refused(forge, toy_store, tmp_path):
    path = sorted(toy_store.rglob("*.parquet"))[0]
    table = read_rows(path)
    write_rows(path, pa.concat_tables([table, table.slice(0, 1)]).combine_chunks())
    assert "two rows claim the same measurement" in refusals(toy_store, tmp_path / "ours")


@pytest.mark.parametrize(("column", "value"), [("items_hash", "others"), ("chance", 123.0)])
def test_other_items_and_another_chance_than_ours_are_refused(forge, toy_store, tmp_path, column, value):
    ours = tmp_path / "ours"
    shutil.copytree(toy_store, ours)
    sorted(ours.rglob("*.parquet"))[0].unlink()
    (sentence,) = refusals(forge(lambda row: row.update({column: value})), ours)
    assert "other items (others)" in sentence or "on these items it is" in sentence


def test_a_cell_of_ours_with_other_numbers_is_refused(forge, toy_store, tmp_path):
    shutil.copytree(toy_store, tmp_path / "ours")
    (sentence,) = refusals(forge(lambda row: row.update({"train_loss": 0.25})), tmp_path / "ours")
    assert "ours has this cell with other rows" in sentence


def test_a_changed_byte_is_refused_and_the_others_are_accepted(toy_store, tmp_path):
    path = sorted(toy_store.rglob("*.parquet"))[0]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    found = judged(toy_store, tmp_path / "ours")
    assert [v.name for v in found.verdicts if v.problems] == [str(path)] and len(found.tables) == 2


def test_an_environment_under_another_name_than_its_hash_is_refused(toy_store, tmp_path):
    (path,) = (toy_store / "environments").glob("*.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"python": "4.0"}))
    assert hashlib.sha256(path.read_bytes()).hexdigest()[:12] != path.stem
    assert len(refusals(toy_store, tmp_path / "ours")) == 3


@pytest.mark.parametrize("content", [None, b"", b"PAR1 nonsense PAR1"])
def test_no_file_and_no_parquet_are_said(tmp_path, content):
    path = tmp_path / "mine.parquet"
    if content is None:
        with pytest.raises(UserError, match="no file or folder"):
            judged(path, tmp_path / "ours")
        return
    path.write_bytes(content)
    assert len(refusals(path, tmp_path / "ours")) == 1
