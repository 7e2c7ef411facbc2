"""Every probe keeps the contract; what cannot be looked at is refused in one line, before any work."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from lgbench.cli import app
from lgbench.errors import UserError
from lgbench.intervention import overridden_hooks
from lgbench.plugins.registry import PROBES
from lgbench.run.probing import Look, look
from lgbench.store.readings import all_readings, read_readings
from lgbench.store.verify import verify

WHERE = {"positionwise": ("perplexity", "vanilla"), "wrong_length": ("omniglot", "prepended")}
"""Cell of those that do not look at Omniglot under vanilla."""
LENGTHS = {"positionwise": (128,)}


@pytest.fixture
def measured(trained, cell, tmp_path):
    def run(name, **more):
        kind = PROBES.load(name)
        task, method = WHERE.get(name, ("omniglot", "vanilla"))
        asked = Look(lengths=LENGTHS.get(name, (8, 16, 32)), num_items=3, **more)
        return kind(), *look(kind(), name, cell(task, method), trained, asked, out=tmp_path)

    return run


@pytest.mark.parametrize("name", PROBES.names())
def test_a_probe_reads_stores_and_draws(measured, name):
    started = time.process_time()
    probe, path, readings = measured(name)
    assert time.process_time() - started < 30
    names = {row.name for row in readings.rows}
    assert set(probe.statistics) <= names and probe.statistics
    again = read_readings(path)
    assert [row._replace(value=0) for row in again.rows] == [row._replace(value=0) for row in readings.rows]
    np.testing.assert_array_equal([row.value for row in again.rows], [row.value for row in readings.rows])
    for key, values in readings.arrays.items():
        np.testing.assert_array_equal(again.arrays[key], values)
    figure = probe.figure([again, again])
    assert figure.axes and figure.get_size_inches()[0] == 7


@pytest.mark.parametrize("name", PROBES.names())
def test_a_recorder_changes_nothing(name):
    assert overridden_hooks(PROBES.load(name)().recorder((0,))) <= {"record"}


@pytest.mark.parametrize("name", PROBES.names())
def test_a_probe_says_what_it_is_for_and_where_it_comes_from(name):
    assert PROBES.summary(name) and "Source:" in (sys.modules[PROBES.load(name).__module__].__doc__ or "")


def test_what_was_read_is_not_read_again(measured):
    _, path, first = measured("state_norm")
    _, _, again = measured("state_norm")
    assert again.facts["created_at"] == first.facts["created_at"]
    assert list(all_readings([path.parents[2]])) == [path]


def test_a_damaged_file_of_readings_is_noticed(measured):
    _, path, _ = measured("state_norm")
    arrays = path.with_suffix(".safetensors")
    arrays.write_bytes(arrays.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ValueError, match="damaged"):
        read_readings(path)
    assert all_readings([path.parents[2]]) == {}
    assert [finding.kind for finding in verify(path.parents[2]) if finding.problem] == ["readings"]


@pytest.mark.parametrize(
    ("name", "method", "asked", "words"),
    [
        ("state_norm", "transformer", {}, "hook `record`"),
        ("identical_tokens", "transformer", {}, "needs them whole"),
        ("state_norm", "decimamba", {}, "chooses among all tokens"),
        ("state_norm", "vanilla", {"layers": (2,)}, "--layers 2: .* layers 0 to 1"),
        ("state_norm", "vanilla", {"layers": (-1,)}, "--layers -1"),
        ("wrong_length", "vanilla", {}, "this one does not"),
        ("image_switch", "vanilla", {"num_items": 1}, "needs two items"),
        ("positionwise", "vanilla", {}, "no text"),
        ("state_norm", "vanilla", {"lengths": (0,)}, "--length 0"),
    ],
)
def test_what_cannot_be_looked_at_is_refused_before_weights_are_read(
    trained, cell, tmp_path, monkeypatch, name, method, asked, words
):
    monkeypatch.setattr("lgbench.run.probing.trained_model", lambda *_: pytest.fail("weights were read"))
    with pytest.raises(UserError, match=words) as refused:
        look(PROBES.load(name)(), name, cell("omniglot", method), trained, Look(**asked), out=tmp_path)
    assert "\n" not in str(refused.value)


def test_a_length_beyond_the_text_is_refused(trained, cell, tmp_path):
    with pytest.raises(UserError, match=r"--length 100000000: a window .* is longer than every document"):
        look(
            PROBES.load("state_norm")(), "state_norm", cell("perplexity"), trained,
            Look(lengths=(100_000_000,)), out=tmp_path,
        )  # fmt: skip


def test_a_cell_that_was_never_trained_is_refused_in_one_line(trained):
    options = ["probe", "state_norm", "--results", str(trained)]
    for wanted in (
        ["--task", "mqar"],
        ["--task", "omniglot", "--method", "slow_clock"],
        ["--cell", "zzz"],
        [],
    ):
        done = CliRunner().invoke(app, [*options, *wanted])
        assert done.exit_code == 2 and done.output.startswith("lgbench: ") and done.output.count("\n") == 1


def test_the_command_reads_and_draws_several_models(trained, tmp_path):
    options = [
        "--task",
        "omniglot",
        "--method",
        "vanilla",
        "--method",
        "prepended",
        "--results",
        str(trained),
    ]
    more = ["--out", str(tmp_path), "--length", "8,16", "--items", "2", "--layers", "1", "--device", "cpu"]
    done = CliRunner().invoke(app, ["probe", "delta-norm[first=4]", *options, *more], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert len(all_readings([tmp_path])) == 2 and len(list(tmp_path.rglob("*.png"))) == 1
    assert "spread between lengths" in done.output


def test_listing_probes_imports_no_torch():
    code = (
        "import sys\nfrom lgbench.plugins.registry import PROBES\n"
        "[PROBES.summary(n) for n in PROBES.names()]\nsys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    listed = CliRunner().invoke(app, ["list", "probes"])
    assert "hidden_attention" in listed.output and "methods:" not in listed.output


def test_the_probe_of_the_documentation_works(tmp_path, trained):
    text = (Path(__file__).parents[2] / "docs" / "probes.md").read_text(encoding="utf-8")
    file = tmp_path / "loudness.py"
    file.write_text(
        text.partition("one class.")[2].partition("```python\n")[2].partition("```")[0], encoding="utf-8"
    )
    options = ["--task", "omniglot", "--results", str(trained), "--out", str(tmp_path), "--device", "cpu"]
    words = ["probe", "loudness", "--plugin", str(file), "--length", "8,16", *options]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0 and "loudness" in done.output and "Figure: " in done.output


def test_the_documentation_names_every_probe():
    text = (Path(__file__).parents[2] / "docs" / "probes.md").read_text(encoding="utf-8")
    assert [name for name in PROBES.names() if f"| `{name}` |" not in text] == []


def test_a_folder_without_rows_is_one_line(tmp_path):
    (tmp_path / "rows").mkdir()
    done = CliRunner().invoke(app, ["probe", "state_norm", "--task", "omniglot", "--results", str(tmp_path)])
    assert done.exit_code == 2 and "no trained vanilla on omniglot" in done.output
