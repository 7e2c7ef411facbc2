"""A results folder is brought up to date with every number as it was, and everything renamed together."""

import hashlib
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from lgbench.errors import UserError
from lgbench.store import SCHEMA_VERSION, Store, read
from lgbench.store.rekey import migrate
from lgbench.store.rows_file import read_rows

PUBLISHED = Path(__file__).parents[2] / "results"


def under_new_keys(row):
    return tuple(hashlib.sha256(row[name].encode()).hexdigest()[:16] for name in ("cell", "training"))


@pytest.fixture
def root(old_file, tmp_path):
    """Two old cells of different trainings, with all that belongs to the first, and an unreadable file."""
    path, (row, *_) = old_file("version-1-first")
    for name in (
        "strips/task/{cell}.npz",
        "failures/{cell}.txt",
        "checkpoints/{training}/step-1.safetensors",
    ):
        beside = tmp_path / name.format(**row)
        beside.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(name)
    old_file("version-2-first")
    (path.parent / "torn.parquet").write_bytes(b"PAR1")
    return tmp_path


def files_under(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def values(root):
    table = read([root]).table
    kept = [name for name in table.schema.names if name not in ("cell", "training")]
    return sorted(map(str, table.select(kept).to_pylist()))


def test_published_scores_are_unchanged_bit_by_bit(tmp_path):
    shutil.copytree(PUBLISHED / "rows", tmp_path / "rows")
    done = migrate(tmp_path)
    assert done.unreadable == {} and len(done.written) + len(done.unchanged) >= 67
    for path in sorted((PUBLISHED / "rows").rglob("*.parquet")):
        before, after = pq.read_table(path), read_rows(tmp_path / path.relative_to(PUBLISHED))
        for name in ("value", "ci_low", "ci_high", "std", "chance", "best", "item_values", "eval_length"):
            assert after[name].combine_chunks().equals(before[name].combine_chunks()), (path, name)
    assert migrate(tmp_path).written == {}, "a second time there is nothing to do"


def test_everything_of_a_cell_and_its_training_gets_the_new_keys(root):
    before, old = values(root), read_rows(next((root / "rows").rglob("04*.parquet")))
    cell, training = under_new_keys({n: old[n][0].as_py() for n in ("cell", "training")})
    done = migrate(root, under_new_keys)
    assert values(root) == before
    assert read_rows(root / "rows" / "task" / f"{cell}.parquet")["training"].unique().to_pylist() == [
        training
    ]
    names = set(files_under(root))
    assert {f"strips/task/{cell}.npz", f"failures/{cell}.txt"} < names
    assert f"checkpoints/{training}/step-1.safetensors" in names
    assert not any(old["cell"][0].as_py() in name or old["training"][0].as_py() in name for name in names)
    assert len(done.written) == 2 and len(done.moved) == 3
    assert [path.name for path in done.unreadable] == ["torn.parquet"]


def test_a_dry_run_says_the_same_and_changes_nothing(root):
    before = files_under(root)
    planned = migrate(root, under_new_keys, dry_run=True)
    assert files_under(root) == before
    assert planned == migrate(root, under_new_keys)


def test_a_migrated_file_has_the_current_schema_and_its_checksums(root):
    for path in migrate(root).written.values():
        stored = pq.read_metadata(path).metadata
        assert stored[b"lgbench_schema_version"] == str(SCHEMA_VERSION).encode()
        assert stored[b"lgbench_seal"].startswith(b"lgbench-seal:")


def test_an_interrupted_migration_is_carried_on(root, monkeypatch, tmp_path_factory):
    other = tmp_path_factory.mktemp("other") / "results"
    shutil.copytree(root, other)
    migrate(other, under_new_keys)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            migrate(root, under_new_keys)

    def known(row):  # keys of today are keys of today
        return (row["cell"], row["training"]) if row["cell"] in new else under_new_keys(row)

    new = {path.stem for path in (other / "rows").rglob("*.parquet")}
    migrate(root, known)
    assert {n: len(c) for n, c in files_under(root).items() if n != "manifest.jsonl"} == {
        n: len(c) for n, c in files_under(other).items() if n != "manifest.jsonl"
    }


def test_only_what_older_rows_lack_is_filled_in(root, row):
    Store(root).write("task", "new", [row(cell="new", training="t", task="toy", horizon=8.0)])
    migrate(root, describe=lambda row: {"horizon": 32.0, "context_means": "denser"})
    table = read([root]).table.to_pandas()
    assert set(table.loc[table["cell"] == "new", "horizon"]) == {8.0}
    assert set(table.loc[table["cell"] != "new", "horizon"]) == {32.0}
    assert set(table["context_means"]) == {"denser"}


@pytest.mark.parametrize(
    ("rekey", "reason"),
    [
        (lambda row: ("same", row["training"]), "would both become same.parquet and differ"),
        (lambda row: ("torn", row["training"]), "would both become torn.parquet and differ"),
        (lambda row: (row["cell"], row["cell"]), "would get two keys"),
    ],
    ids=["two cells", "an unreadable file", "a training"],
)
def test_keys_that_clash_are_refused_before_anything_is_changed(root, old_file, rekey, reason):
    def same_training(columns, rows):
        for row in rows:
            row.update(training=read_rows(next((root / "rows").rglob("04*.parquet")))["training"][0].as_py())

    old_file("version-2-first", same_training)
    before = files_under(root)
    with pytest.raises(UserError, match=reason):
        migrate(root, rekey)
    assert files_under(root) == before


def test_a_checkpoint_whose_new_name_is_taken_is_left_and_named(root):
    old = read_rows(next((root / "rows").rglob("04*.parquet")))["training"][0].as_py()
    (root / "checkpoints" / "taken").mkdir()
    done = migrate(root, lambda row: (row["cell"], "taken" if row["training"] == old else row["training"]))
    assert done.left == [root / "checkpoints" / old]
    assert (root / "checkpoints" / old / "step-1.safetensors").exists()
