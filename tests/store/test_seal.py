"""No bit of a file changes without being noticed: rows, weights, resumable states and fits."""

import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from lgbench.run import checkpoint
from lgbench.store import SCHEMA, Store, read
from lgbench.store.digest import content_digest
from lgbench.store.rows_file import read_rows, write_rows
from lgbench.store.seal import BLANK, Damaged, file_is_sealed, seal

MAPS = {"references": {"chance": 0.25}, "task_params": {"low": "3"}, "item_facts": {"depth": [0.0, 0.5]}}
WHOLE = {name: 3 for names in checkpoint.FACTS.values() for name in names}
WHOLE |= {"history": [[1, 0.5]], "digests": {"4": []}}


@pytest.fixture
def rows_path(tmp_path, row):
    rows = [row(eval_length=n, item_values=[0.5, n, 1e-9], seed=3, metric="MSE", **MAPS) for n in (1, 70_000)]
    return Store(tmp_path).write("task", "cell", rows)


def tensors_path(tmp_path, name):
    tensors = {"a": torch.arange(12.0).reshape(3, 4), "b": torch.ones(5, dtype=torch.bfloat16)}
    checkpoint.save(tmp_path / name, tensors, WHOLE)
    return tmp_path / name


def silent_flips(path, flips, is_noticed):
    """How many of so many random single flipped bits were not noticed."""
    whole, generator, silent = path.read_bytes(), random.Random(0), 0
    for bit in generator.sample(range(8 * len(whole)), flips):
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        silent += not is_noticed(path)
    path.write_bytes(whole)
    assert not is_noticed(path)
    return silent


def rows_are_refused(path):
    reading = read([path.parents[2]])
    return path in reading.unreadable and reading.table.num_rows == 0


def tensors_are_refused(path):
    found = checkpoint.load(path)
    aside = path.with_name(f"{path.name}.damaged")
    if found is not None:
        return False
    aside.replace(path)
    return True


def test_any_flipped_bit_in_rows_is_an_error_that_names_the_file(rows_path):
    assert silent_flips(rows_path, 600, rows_are_refused) == 0


NAMES = ["step-000000003.safetensors", "resume.safetensors", "fit-0123.safetensors"]


@pytest.mark.parametrize("name", NAMES)
def test_any_flipped_bit_in_tensors_is_noticed(tmp_path, name):
    assert silent_flips(tensors_path(tmp_path, name), 300, tensors_are_refused) == 0


@pytest.mark.slow
def test_none_of_2000_flipped_bits_in_each_kind_of_file_is_silent(tmp_path, rows_path):
    assert silent_flips(rows_path, 2000, rows_are_refused) == 0
    for name in NAMES:
        assert silent_flips(tensors_path(tmp_path, name), 2000, tensors_are_refused) == 0


def test_a_file_that_is_cut_anywhere_is_noticed(tmp_path, rows_path):
    tensors = tensors_path(tmp_path, "x")
    for path, is_refused in ((rows_path, rows_are_refused), (tensors, tensors_are_refused)):
        whole = path.read_bytes()
        for length in range(0, len(whole), 97):
            path.write_bytes(whole[:length])
            assert is_refused(path), length


def test_pages_carry_checksums(rows_path):
    """The file's own checksum set aside, pyarrow notices a page that is not the one that was written."""
    content = bytearray(rows_path.read_bytes())
    at = pq.read_metadata(rows_path).row_group(0).column(SCHEMA.names.index("eval_length"))
    content[at.data_page_offset + at.total_compressed_size - 1] ^= 1
    whole = pq.ParquetFile(pa.BufferReader(bytes(content)), page_checksum_verification=True)
    with pytest.raises(OSError, match=r"(?i)crc"):
        whole.read()


def test_rows_written_by_another_program_are_not_taken_for_ours(rows_path):
    pq.write_table(pq.read_table(rows_path), rows_path)
    with pytest.raises(Damaged, match="schema version 3 without a checksum"):
        read_rows(rows_path)


def test_content_other_than_its_digest_is_noticed_unless_known(tmp_path, rows_path, monkeypatch):
    table = read_rows(rows_path)
    monkeypatch.setattr("lgbench.store.rows_file.content_digest", lambda table: "0" * 64)
    write_rows(rows_path, table)
    monkeypatch.undo()
    assert read_rows(rows_path, known=True).equals(table)
    with pytest.raises(Damaged, match="digest of its content"):
        read_rows(rows_path)


def test_a_seal_needs_room_and_a_file_without_one_is_not_sealed(tmp_path):
    path = tmp_path / "x"
    path.write_text("no room")
    assert not file_is_sealed(path)
    with pytest.raises(ValueError, match="no room for a seal"):
        seal(path)
    path.write_text(f"before {BLANK} after")
    with pytest.raises(Damaged):
        file_is_sealed(path)
    seal(path)
    assert file_is_sealed(path) and path.read_text().startswith("before lgbench-seal:")


FACTS = pa.map_(pa.string(), pa.list_(pa.float64()))
COLUMN = {
    "numbers": pa.array([1.0, None, -0.0, float("nan")]),
    "truths": pa.array([True, None, False, True]),
    "words": pa.array(["a", None, "", "b"]),
    "lists": pa.array([[1.0], None, [], [2.0, 3.0]], pa.list_(pa.float32())),
    "maps": pa.array([{"a": [1.0]}, None, {}, {"b": [], "c": [None]}], FACTS),
}


@pytest.mark.parametrize("name", COLUMN)
def test_the_digest_of_content_does_not_depend_on_chunks_or_offsets(name):
    whole = pa.table({name: COLUMN[name]})
    parts = pa.concat_tables([whole.slice(0, 1), whole.slice(1, 2), whole.slice(3)])
    shifted = pa.concat_tables([whole, whole]).combine_chunks().slice(4)
    assert content_digest(whole) == content_digest(parts) == content_digest(shifted)


@pytest.mark.parametrize("name", COLUMN)
def test_the_digest_of_content_tells_every_change_apart(name):
    values = COLUMN[name]
    order = [[0, 1, 2, 3], [0, 2, 1, 3], [1, 0, 2, 3], [0, 1, 2], [0, 3, 2, 1], [1, 1, 1, 1]]
    changed = [pa.table({name: values.take(pa.array(some))}) for some in order]
    changed += [pa.table({"renamed": values}), pa.table({name: values, "more": values})]
    assert len({content_digest(table) for table in changed}) == len(changed)


def test_the_digest_of_content_tells_types_and_bits_of_numbers_apart():
    tables = [pa.table({"a": pa.array([0], kind)}) for kind in (pa.int32(), pa.int64(), pa.float64())]
    tables += [pa.table({"a": pa.array([-0.0])}), pa.table({"a": pa.array([None], pa.float64())})]
    assert len({content_digest(table) for table in tables}) == len(tables)


def test_a_file_of_this_version_with_other_columns_is_refused(rows_path, monkeypatch):
    table = read_rows(rows_path)
    monkeypatch.setattr("lgbench.store.rows_file.content_digest", lambda table: "")
    for change, reason in (
        (lambda schema: schema.remove(0), "no column cell"),
        (lambda schema: schema.set(0, pa.field("cell", pa.binary())), "column cell is binary, not string"),
    ):
        changed = change(SCHEMA)
        with monkeypatch.context() as writing:
            writing.setattr("lgbench.store.rows_file.SCHEMA", changed)
            write_rows(rows_path, table.select(changed.names).cast(changed))
        with pytest.raises(ValueError, match=reason):
            read_rows(rows_path)
