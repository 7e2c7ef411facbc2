"""`lgbench results verify` and `migrate`, as a user calls them."""

import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from lgbench.cli import app
from lgbench.run import checkpoint
from lgbench.store import SCHEMA, Store, read
from lgbench.store.readings import Reading, Readings, readings_path, write_readings


def lgbench(*words):
    return CliRunner().invoke(app, ["results", *map(str, words)])


PUBLISHED = Path(__file__).parent.parent / "results"


@pytest.fixture
def root(tmp_path):
    """A folder with one of everything."""
    kept = Store(tmp_path / "results")
    row = dict.fromkeys(SCHEMA.names) | {"cell": "c", "status": "ok", "task": "omniglot", "training": "t"}
    kept.write("omniglot", "c", [row | {"environment": kept.write_environment({"torch": "2"})}])
    for name in ("step-000000001", "resume", "fit-01"):
        path = kept.root / "checkpoints" / "t" / f"{name}.safetensors"
        checkpoint.save(path, {"a": torch.ones(3)}, {})
    path = readings_path(kept.root, "omniglot", "c", "state_norm", "00000000")
    write_readings(path, Readings([Reading("mean norm", 1.0)]))
    return kept.root


def test_a_whole_folder_passes_and_every_kind_is_counted(root):
    done = lgbench("verify", "--results", root)
    assert done.exit_code == 0, done.output
    lines = [line.split() for line in done.output.splitlines()]
    assert lines[1:] == [
        ["rows", "1", "0", "0"],
        ["environment", "1", "0", "0"],
        ["weights", "1", "0", "0"],
        ["resumable", "state", "1", "0", "0"],
        ["fit", "1", "0", "0"],
        ["readings", "1", "0", "0"],
    ]


@pytest.mark.parametrize(
    "pattern", ["rows/*/*", "environments/*", "*/*/step*", "*/*/resume*", "*/*/fit*", "probes/*/*.parquet"]
)
def test_anything_damaged_is_named_and_the_status_is_1(root, pattern):
    (path,) = root.glob(pattern)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    done = lgbench("verify", "--results", root)
    assert done.exit_code == 1 and str(path) in done.output
    assert path.read_bytes() == content, "nothing is changed"


@pytest.mark.parametrize("name", ["0123456789ab", "../../secret"])
def test_a_row_without_its_environment_is_named(root, name):
    row = read([root]).table.to_pylist(maps_as_pydicts="strict")[0]
    Store(root).write("omniglot", "c", [row | {"environment": name}])
    done = lgbench("verify", "--results", root)
    assert done.exit_code == 1 and name in done.output and "rows/omniglot/c.parquet" in done.output


def test_old_weights_are_accepted_and_counted_but_not_when_they_are_cut(root):
    from safetensors.torch import save_file

    path = root / "checkpoints" / "t" / "step-000000001.safetensors"
    save_file({"a": torch.ones(3)}, path, metadata={"facts": "{}"})
    assert ["weights", "1", "1", "0"] in [
        line.split() for line in lgbench("verify", "--results", root).output.splitlines()
    ]
    path.write_bytes(path.read_bytes()[:-1])
    assert lgbench("verify", "--results", root).exit_code == 1


def test_migrate_says_what_it_does_and_does_it_once(root):
    asked = "migrate", "--dry-run", "--results", root
    said = lgbench(*asked).output
    assert "cannot be read" in said and "the row has no task_params" in said
    shutil.copytree(PUBLISHED / "rows" / "perplexity", root / "rows" / "perplexity")
    count = len(list((root / "rows" / "perplexity").iterdir()))
    assert lgbench("migrate", "--results", root).exit_code == 0
    assert "0 files of rows would be written" in lgbench(*asked).output
    assert f"{count} unchanged" in lgbench("migrate", "--results", root).output


@pytest.mark.parametrize("command", ["verify", "migrate"])
def test_a_folder_that_is_not_there_is_bad_input(tmp_path, command):
    done = lgbench(command, "--results", tmp_path / "none")
    assert done.exit_code == 2 and "no results folder" in done.output
