"""Rows are complete, documented, and whole on disk or not there; what cannot be read is left alone."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lgbench.errors import UserError
from lgbench.run import checkpoint
from lgbench.store import SCHEMA, SCHEMA_VERSION, Store, atomic_file, files, frame, read


def row(**changes):
    """A complete row; columns that are not given are null."""
    return dict.fromkeys(SCHEMA.names) | {"cell": "cell", "status": "ok", "value": 0.5} | changes


def files_under(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_rows_come_back_as_they_were_written(tmp_path):
    maps = {"task_params": {"low": "3"}, "references": {"chance": 0.1, "white": 0.2}, "recipe": {}}
    maps |= {"item_facts": {"depth": [0.5, 1.0]}, "item_texts": {"question": ["a", ""]}}
    lists = {"kept_tokens": [3, 4], "item_clusters": ["book 1", "book 2"]}
    rows = [
        row(eval_length=n, item_values=[0.5, n], higher_is_better=False, seed=3, **maps, **lists)
        for n in (1, 70_000)
    ]
    path = Store(tmp_path).write("task", "cell", rows)
    assert path == tmp_path / "rows" / "task" / "cell.parquet"
    reading = read([tmp_path])
    assert reading.table.schema.equals(SCHEMA) and reading.unreadable == {}
    assert reading.table.to_pylist(maps_as_pydicts="strict") == rows


def test_every_column_has_a_type_and_a_sentence_and_the_file_its_version(tmp_path):
    path = Store(tmp_path).write("task", "cell", [row()])
    stored = pq.read_schema(path)
    assert stored.names == SCHEMA.names and len(set(stored.names)) == len(stored.names)
    assert stored.metadata[b"lgbench_schema_version"] == str(SCHEMA_VERSION).encode()
    for field in stored:
        assert len(field.metadata[b"doc"]) > 5, field.name


@pytest.mark.parametrize("wrong", [{"extra": 1}, {"value": ...}], ids=["a column too many", "one too few"])
def test_a_row_that_does_not_fit_the_schema_is_refused_and_leaves_nothing(tmp_path, wrong):
    bad = {name: value for name, value in (row() | wrong).items() if value is not ...}
    with pytest.raises(ValueError, match=f"row and schema differ.*{next(iter(wrong))}"):
        Store(tmp_path).write("task", "cell", [row(), bad])
    assert files_under(tmp_path) == []


def test_writing_a_cell_again_replaces_its_file(tmp_path):
    kept = Store(tmp_path)
    kept.write("task", "cell", [row(value=0.1), row(value=0.2)])
    kept.write("task", "cell", [row(value=0.3)])
    assert files_under(tmp_path) == ["rows/task/cell.parquet"]
    assert read([tmp_path]).table["value"].to_pylist() == [0.3]


@pytest.mark.parametrize(
    ("statuses", "finished"),
    [
        (["ok", "ok"], True),
        (["ok", "diverged"], True),
        (["diverged"], True),
        (["skipped"], True),
        (["failed"], False),
        (["out_of_memory"], False),
        (["ok", "failed"], False),
    ],
    ids=str,
)
def test_a_cell_is_finished_unless_it_failed_in_a_way_that_may_pass(tmp_path, statuses, finished):
    kept = Store(tmp_path)
    assert not kept.finished("task", "cell")
    kept.write("task", "cell", [row(status=status) for status in statuses])
    assert kept.finished("task", "cell") is finished
    assert Store(tmp_path).finished("task", "cell") is finished, "read again"


def test_a_torn_file_is_not_a_finished_cell(tmp_path):
    kept = Store(tmp_path)
    path = kept.write("task", "cell", [row()])
    path.write_bytes(path.read_bytes()[:-20])
    assert not kept.finished("task", "cell")


FULL = OSError(errno.ENOSPC, "No space left on device")


def no_space(*_, **__):
    raise FULL


def half_written(writer, table):
    Path(writer.where).write_bytes(b"PAR1 and then")
    raise FULL


@pytest.mark.parametrize(
    ("where", "failure"),
    [
        ((os, "replace"), no_space),
        ((os, "fsync"), no_space),
        ((pq.ParquetWriter, "write_table"), half_written),
        ((files.tempfile, "mkstemp"), no_space),
    ],
    ids=["replace", "fsync", "write", "create"],
)
def test_a_full_disk_is_an_error_in_words_and_leaves_the_old_file_and_nothing_half_written(
    tmp_path, monkeypatch, where, failure
):
    kept = Store(tmp_path)
    kept.write("task", "cell", [row(value=0.1)])
    with monkeypatch.context() as patch:
        patch.setattr(*where, failure)
        for cell in ("cell", "other"):
            with pytest.raises(UserError, match=r"cannot write .*: No space left on device") as caught:
                kept.write("task", cell, [row(cell=cell, value=0.9)])
            assert "\n" not in str(caught.value)
    assert files_under(tmp_path) == ["rows/task/cell.parquet"]
    assert read([tmp_path]).table["value"].to_pylist() == [0.1]


def test_a_full_disk_while_weights_are_saved_leaves_nothing_half_written(tmp_path, monkeypatch):
    import torch
    from safetensors import SafetensorError

    def fail(tensors, where, **_):
        where.write_bytes(b"half")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoint, "save_file", fail)
    with pytest.raises(UserError, match=r"cannot write .*No space left on device"):
        checkpoint.save(tmp_path / "x.safetensors", {"a": torch.zeros(2)}, {})
    assert files_under(tmp_path) == []


def test_any_other_exception_leaves_nothing_half_written_either(tmp_path):
    with pytest.raises(RuntimeError, match="boom"), atomic_file(tmp_path / "x") as temporary:
        temporary.write_text("half")
        raise RuntimeError("boom")
    assert files_under(tmp_path) == []


def test_files_can_be_read_by_others(tmp_path):
    path = Store(tmp_path).write("task", "cell", [row()])
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_results_folder_that_cannot_be_made_is_found_out_before_anything_runs(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match=r"cannot write .*file/results"):
        Store(tmp_path / "file" / "results").check_writable()
    Store(tmp_path / "fresh").check_writable()
    assert files_under(tmp_path) == ["file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_found_out_before_anything_runs(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match=r"cannot write .*Permission denied"):
        Store(tmp_path / "results").check_writable()


def test_unreadable_files_are_named_skipped_and_left_alone(tmp_path):
    kept = Store(tmp_path)
    kept.write("task", "good", [row(cell="good", value=0.25)])
    torn = kept.path("task", "torn")
    torn.write_bytes(kept.path("task", "good").read_bytes()[:-9])
    empty, text = kept.path("task", "empty"), kept.path("task", "text")
    empty.touch()
    text.write_text("these are not rows")
    reading = read([tmp_path])
    assert reading.table["value"].to_pylist() == [0.25]
    assert set(reading.unreadable) == {torn, empty, text}
    assert all(reason and "\n" not in reason for reason in reading.unreadable.values())
    assert text.read_text() == "these are not rows" and torn.exists() and empty.exists()


def test_a_file_of_another_schema_version_says_so_and_how_to_go_on(tmp_path):
    path = Store(tmp_path).path("task", "old")
    path.parent.mkdir(parents=True)
    pq.write_table(pa.table({"a": [1]}).replace_schema_metadata({"lgbench_schema_version": "4"}), path)
    foreign = Store(tmp_path).path("task", "foreign")
    pq.write_table(pa.table({"a": [1]}), foreign)
    reading = read([tmp_path])
    assert len(reading.table) == 0
    assert reading.unreadable[path] == (
        f"schema version 4, this lgbench reads 1 to {SCHEMA_VERSION}; update lgbench, or run its cell again "
        "with --force"
    )
    assert reading.unreadable[foreign].startswith("schema version none")


def test_several_folders_are_read_together_and_a_missing_one_is_an_error(tmp_path):
    Store(tmp_path / "a").write("task", "one", [row(cell="one", value=1.0)])
    Store(tmp_path / "b").write("other", "two", [row(cell="two", value=2.0)])
    assert sorted(read([tmp_path / "a", tmp_path / "b"]).table["value"].to_pylist()) == [1.0, 2.0]
    with pytest.raises(UserError, match=r"no results folder .*c'. Make one with: lgbench run --results"):
        read([tmp_path / "a", tmp_path / "c"])


def test_a_folder_without_rows_gives_an_empty_table_of_the_schema(tmp_path):
    assert read([tmp_path]).table.schema.equals(SCHEMA)
    assert len(read([tmp_path]).table) == 0


def test_half_written_files_of_a_killed_process_are_not_read(tmp_path):
    kept = Store(tmp_path)
    kept.write("task", "cell", [row()])
    (kept.path("task", "cell").parent / ".cell.parquet.abc123").write_bytes(b"PAR1 half")
    reading = read([tmp_path])
    assert len(reading.table) == 1 and reading.unreadable == {}


def test_an_environment_is_kept_once_under_its_hash(tmp_path):
    kept = Store(tmp_path)
    names = {
        kept.write_environment({"torch": "2", "gpu": None}),
        kept.write_environment({"gpu": None, "torch": "2"}),
    }
    other = kept.write_environment({"torch": "3", "gpu": None})
    assert len(names) == 1 and other not in names
    assert len(files_under(tmp_path / "environments")) == 2


@pytest.mark.parametrize("rows", [[], [row(), row(cell="other")]], ids=["none", "another cell's"])
def test_rows_are_bound_to_their_cell_when_written(tmp_path, rows):
    with pytest.raises(ValueError, match=r"no rows of cell cell|row of cell other in the file of cell cell"):
        Store(tmp_path).write("task", "cell", rows)
    assert files_under(tmp_path) == []


def test_another_cells_file_under_a_name_is_neither_read_nor_finished(tmp_path):
    kept = Store(tmp_path)
    kept.write("task", "cell", [row()])
    kept.path("task", "cell").rename(kept.path("task", "forged"))
    assert read([tmp_path]).unreadable == {
        kept.path("task", "forged"): "its rows are of the cell cell, not of its name"
    }
    assert Store(tmp_path).unfinished([("task", "forged"), ("task", "cell")]) == {
        ("task", "forged"): "its rows are of the cell cell, not of its name",
        ("task", "cell"): "",
    }


def test_an_unknown_status_is_neither_read_nor_finished(tmp_path):
    kept = Store(tmp_path)
    kept.write("task", "cell", [row(status="fine")])
    (reason,) = read([tmp_path]).unreadable.values()
    assert reason.startswith("unknown status fine; known: ok,")
    assert not Store(tmp_path).finished("task", "cell")


RECIPE = {"eval_lengths": "[4,8]", "query_grid": "[1,2]"}


@pytest.mark.parametrize(
    ("points", "reason"),
    [
        ([("context", 4, 2), ("context", 8, 2), ("queries", 4, 1), ("queries", 4, 2)], None),
        ([("context", 4, 2), ("queries", 4, 1), ("queries", 4, 2)], "no row for eval_length 8"),
        ([("context", 4, 2), ("context", 8, 2), ("queries", 4, 2)], "no row for num_queries 1"),
    ],
    ids=["all", "a length missing", "a number of queries missing"],
)
def test_a_cell_with_rows_missing_is_read_but_not_finished(tmp_path, points, reason):
    rows = [
        row(axis=axis, eval_length=length, num_queries=number, recipe=RECIPE, metric="a")
        for axis, length, number in points
    ]
    Store(tmp_path).write("task", "cell", rows)
    assert len(read([tmp_path]).table) == len(points)
    assert Store(tmp_path).unfinished([("task", "cell")]).get(("task", "cell")) == reason


def test_other_metrics_do_not_stand_for_the_headline(tmp_path):
    kept = Store(tmp_path)
    at = [("accuracy", 4), ("first token", 4), ("first token", 8)]
    rows = [row(axis="context", eval_length=n, metric=m, recipe={"eval_lengths": "[4,8]"}) for m, n in at]
    kept.write("task", "cell", rows)
    assert not kept.finished("task", "cell")
    kept.write("task", "cell", [row(status="skipped", recipe=RECIPE)])
    assert kept.finished("task", "cell"), "the one row of a cell that does not apply stands for all"


def test_a_damaged_file_is_kept_beside_the_new_one(tmp_path):
    kept = Store(tmp_path)
    path = kept.write("task", "cell", [row()])
    path.write_bytes(path.read_bytes()[:-20])
    torn = path.read_bytes()
    kept.write("task", "cell", [row(value=0.75)])
    assert path.with_name("cell.parquet.damaged").read_bytes() == torn
    reading = read([tmp_path])
    assert reading.table["value"].to_pylist() == [0.75] and reading.unreadable == {}


def test_a_frame_has_maps_as_dictionaries_and_numbers_of_items_as_arrays(tmp_path):
    kept = Store(tmp_path)
    facts = [{"depth": [0.0, 0.5], "place": [1.0]}, {"depth": [1.0]}, None]
    kept.write("task", "cell", [row(item_facts=f, task_params={"a": "1"}) for f in facts])
    kept.write("task", "other", [row(cell="other", item_texts={"question": ["x"]})])
    rows = frame(read([tmp_path]))
    assert list(rows.columns) == SCHEMA.names
    found = rows["item_facts"].tolist()
    assert {n: v.tolist() for n, v in found[0].items()} == facts[0]
    assert found[1]["depth"].tolist() == [1.0] and found[2] is None and found[3] is None
    assert rows["task_params"].tolist() == [{"a": "1"}] * 3 + [None]
    assert rows["item_texts"].tolist()[-1] == {"question": ["x"]}
    assert list(frame(read([tmp_path]), ["cell", "references"]).columns) == ["cell", "references"]


def test_a_folder_that_refuses_chmod_is_written_all_the_same(tmp_path, row, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "chmod", refuse)
    Store(tmp_path).check_writable()
    Store(tmp_path).write("task", "cell", [row()])
    assert len(read([tmp_path]).table) == 1


def test_files_have_the_rights_that_the_umask_leaves(tmp_path):
    code = (
        "import os, sys; os.umask(0o027)\n"
        "from pathlib import Path; from lgbench.store.files import atomic_file\n"
        "with atomic_file(Path(sys.argv[1])) as file: file.write_text('x', encoding='utf-8')"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "file")], check=True)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640
