"""The manifest saves time and is never the truth."""

import os
import time

import pytest

from lgbench.store import Store, read, store
from lgbench.store.manifest import Manifest


@pytest.fixture
def root(tmp_path, row):
    """A results folder with three finished cells and a failed one, all known."""
    kept = Store(tmp_path)
    for cell, status in (("a", "ok"), ("b", "ok"), ("c", "diverged"), ("d", "failed")):
        kept.write("task", cell, [row(cell=cell, status=status)])
    kept.manifest.save()
    return tmp_path


CELLS = [("task", cell) for cell in "abcd"]


@pytest.fixture
def reads(monkeypatch):
    """Names of the files that are read, in order, with whether they were known."""
    found, real = [], store.read_rows

    def read_rows(path, known=False):
        found.append((path.stem, known))
        return real(path, known)

    monkeypatch.setattr(store, "read_rows", read_rows)
    return found


def test_a_resume_reads_no_file_that_is_known(root, reads):
    assert Store(root).unfinished(CELLS) == {("task", "d"): "it ended as failed"}
    assert reads == []


def test_without_the_manifest_the_answer_is_the_same_and_it_is_made_again(root, reads):
    (root / "manifest.jsonl").unlink()
    assert Store(root).unfinished(CELLS) == {("task", "d"): "it ended as failed"}
    assert [name for name, _ in reads] == list("abcd")
    assert Store(root).unfinished(CELLS) and len(reads) == 4


def test_a_file_of_another_time_or_size_is_read_again(root, reads, row):
    path = Store(root).path("task", "a")
    os.utime(path, ns=(1, 1))
    other = Store(root).path("task", "b")
    other.write_bytes(other.read_bytes()[:-7])
    assert set(Store(root).unfinished(CELLS)) == {("task", "b"), ("task", "d")}
    assert [name for name, _ in reads] == ["a", "b"]


def test_a_cell_whose_file_is_gone_is_not_finished(root):
    Store(root).path("task", "a").unlink()
    assert Store(root).unfinished([("task", "a")]) == {("task", "a"): ""}


TORN = {"empty": "", "short": "{}", "foreign": "{}\n{}\n", "zeros": "\0\n\0", "deep": "[" * 9999 + "\n[]"}


@pytest.mark.parametrize("content", [*TORN.values(), None], ids=[*TORN, "cut"])
def test_a_torn_manifest_is_empty(root, content):
    path = root / "manifest.jsonl"
    path.write_text(path.read_text()[:-40] if content is None else content)
    assert Manifest(root).known(Store(root).path("task", "a")) is None
    assert Store(root).unfinished(CELLS) == {("task", "d"): "it ended as failed"}
    assert Manifest(root).known(Store(root).path("task", "a")).statuses == ["ok"]


def test_a_flipped_bit_in_the_manifest_makes_no_cell_finished(root):
    path = root / "manifest.jsonl"
    text = path.read_text()
    assert '"it ended as failed"' in text
    path.write_text(text.replace('"it ended as failed"', "null"))
    assert Store(root).unfinished(CELLS) == {("task", "d"): "it ended as failed"}


def test_readers_verify_the_content_of_a_file_once(root, reads):
    (root / "manifest.jsonl").unlink()
    first = read([root])
    again = read([root])
    assert first.table.equals(again.table)
    assert sorted(reads[:4]) == [(name, False) for name in "abcd"]
    assert sorted(reads[4:]) == [(name, True) for name in "abcd"]


def test_of_two_writers_neither_loses_more_than_time(root, row):
    one, two = Store(root), Store(root)
    for kept, cell in ((one, "e"), (two, "f")):
        kept.write("task", cell, [row(cell=cell)])
    one.manifest.save()
    two.manifest.save()
    assert Store(root).unfinished([("task", "e"), ("task", "f")]) == {}
    assert [Manifest(root).known(one.path("task", cell)) is not None for cell in "ef"] == [True, True]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_read_without_a_manifest(root):
    (root / "manifest.jsonl").unlink()
    root.chmod(0o500)
    assert len(read([root]).table) == 4
    root.chmod(0o700)


def test_a_manifest_that_cannot_be_written_is_no_error(root):
    (root / "manifest.jsonl").unlink()
    (root / "manifest.jsonl").mkdir()
    assert len(read([root]).table) == 4


def test_ten_thousand_known_cells_are_scanned_in_two_seconds(tmp_path):
    kept, cells = Store(tmp_path), [("task", f"{k:016x}") for k in range(10_000)]
    kept.path("task", "x").parent.mkdir(parents=True)
    for cell in cells:
        path = kept.path(*cell)
        path.write_bytes(b"never read")
        kept.manifest.add(path, {"ok"}, None)
    kept.manifest.save()
    began = time.perf_counter()
    assert Store(tmp_path).unfinished(cells) == {}
    assert time.perf_counter() - began < 2
