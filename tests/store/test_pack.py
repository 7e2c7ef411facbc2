"""The cache of rows saves opening files and is never the truth."""

import importlib
import os

import numpy as np
import pytest

from lgbench.store import Store, frame, read, scan
from lgbench.store.pack import WORTH

NUM = WORTH + 3


def made(root, row, cells):
    store = Store(root)
    for k in cells:
        told = {"cell": f"{k:04d}", "seed": k, "recipe": {"k": str(k % 3)}, "references": {"chance": 0.5}}
        told |= {"item_clusters": ["a", "b"], "item_facts": {"depth": [0.5, k]}, "kept_tokens": [1, k % 2]}
        rows = [row(**told, eval_length=n, item_values=[k, n], needs_length=n > 1) for n in (1, 2)]
        store.write("task", told["cell"], [*rows, row(cell=told["cell"])])
    return root


@pytest.fixture
def root(tmp_path, row):
    """A results folder with some more cells than a pack is worth."""
    return made(tmp_path, row, range(NUM))


@pytest.fixture
def opened(monkeypatch):
    """Names of the files of rows that are opened, in order."""
    module = importlib.import_module("lgbench.store.scan")  # the package has a function of this name
    found, real = [], module.read_known

    def read_known(manifest, path):
        found.append(path.stem)
        return real(manifest, path)

    monkeypatch.setattr(module, "read_known", read_known)
    return found


def same(one, other):
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return np.array_equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    return one == other or ((one != one or one is None) and (other != other or other is None))


def test_a_scan_says_what_the_files_say(root):
    files, found = frame(read([root])), scan([root])
    assert list(found.rows) == list(files) and len(found.rows) == len(files) == 3 * NUM
    for name in files:
        assert all(map(same, files[name], found.rows[name])), name


def test_cells_that_were_written_by_the_dozen_are_not_opened(root, opened):
    assert len(scan([root]).rows) == 3 * NUM
    assert len(opened) == NUM - WORTH


def test_files_opened_and_bytes_kept_grow_with_the_cells_alone(tmp_path, row, opened):
    """Work, not seconds: a second scan opens nothing that it need not, whatever the number of cells."""
    kept = {}
    for num in (2 * WORTH, 4 * WORTH):
        folder = made(tmp_path / str(num), row, range(num))
        scan([folder])
        assert opened == []
        kept[num] = sum(path.stat().st_size for path in (folder / "cache").iterdir())
    assert kept[4 * WORTH] <= 2.1 * kept[2 * WORTH]


def test_a_folder_without_a_cache_gets_one(root, opened):
    for path in (root / "cache").iterdir():
        path.unlink()
    first = scan([root])
    assert len(opened) == NUM
    again = scan([root])
    assert len(opened) == NUM
    assert first.rows["value"].equals(again.rows["value"])


def test_a_file_that_changed_is_read_again(root, row, opened):
    Store(root).write("task", "0005", [row(cell="0005", value=0.25)])
    os.utime(Store(root).path("task", "0006"), ns=(1, 1))
    rows = scan([root]).rows.set_index("cell")
    assert {"0005", "0006"} <= set(opened)
    assert rows.loc["0005", "value"] == 0.25


def test_a_file_that_is_gone_has_no_rows(root):
    Store(root).path("task", "0005").unlink()
    assert "0005" not in set(scan([root]).rows["cell"])


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "foreign"])
def test_a_damaged_pack_is_removed_and_its_files_are_read(root, opened, damage):
    (path,) = (root / "cache").iterdir()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes({"flip": content, "cut": content[:-9], "empty": b"", "foreign": b"x" * 99}[damage])
    assert len(scan([root]).rows) == 3 * NUM
    assert len(opened) == NUM
    assert not path.exists() or path.read_bytes() != content


def test_a_pack_of_little_use_is_removed(root):
    (path,) = (root / "cache").iterdir()
    for k in range(WORTH - 5):
        Store(root).path("task", f"{k:04d}").unlink()
    assert len(scan([root]).rows) == 3 * 8
    assert not path.exists()


def test_columns_that_nobody_asked_for_are_not_made(root):
    assert list(scan([root], ["seed", "value"]).rows) == ["seed", "value"]


def test_an_empty_folder_has_no_rows(tmp_path):
    assert scan([tmp_path]).rows.empty
