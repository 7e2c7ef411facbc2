"""`lgbench compare`, `export` and `submit`, as a user calls them; `regress` has its own tests."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lgbench.cli import app
from lgbench.store import read

DOCS = Path(__file__).parent.parent / "docs" / "regression.md"


def lgbench(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def folder(toy_cells, run_toy):
    """Two methods of the toy task with three seeds, really run."""
    cells = toy_cells(
        "vanilla", "toy_shrink[factor=0.5]", seeds=[0, 1, 2], train_steps=[2], eval_lengths=(16, 32),
        query_grid=(1,),
    )  # fmt: skip
    outcome, kept = run_toy(cells)
    assert not outcome.failed
    return kept.root


def test_a_folder_does_not_differ_from_itself(folder):
    done = lgbench("compare", folder, folder)
    assert done.exit_code == 0 and "0 better and 0 worse beyond noise" in done.output
    assert "verdict" not in done.output and "equal" in lgbench("compare", folder, folder, "--all").output


def test_two_methods_are_compared_by_selections(folder):
    done = lgbench("compare", f"{folder}@method=vanilla", f"{folder}@method=toy_shrink", "--all")
    assert done.exit_code == 0 and "vanilla → toy_shrink" in done.output and "3 differences" in done.output


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["compare", "nowhere", "nowhere"], "no results folder 'nowhere'"),
        (["compare", "a@colour=red", "a"], "not selected by 'colour'"),
        (
            ["export", "--format", "csv", "--out", "x.csv", "--results", "nowhere"],
            "no results folder 'nowhere'",
        ),
        (["export", "--format", "xls", "--out", "x.xls"], "known are csv, latex, parquet"),
        (["submit", "nowhere.parquet"], "no file or folder 'nowhere.parquet'"),
        (["regress", "--baseline", "nowhere.yaml"], "cannot read --baseline nowhere.yaml"),
    ],
)
def test_bad_input_is_one_line_and_exits_2(words, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = lgbench(*words)
    assert done.exit_code == 2 and says in done.stderr and done.stderr.count("\n") == 1


def test_exported_rows_are_submitted_and_merged(folder, tmp_path):
    mine, ours = tmp_path / "mine.parquet", tmp_path / "ours"
    assert lgbench("export", "--format", "parquet", "--out", mine, "--results", folder).exit_code == 0
    done = lgbench("submit", mine, "--into", ours)
    assert done.exit_code == 0 and "6 verdicts: 6 accepted, 0 refused" in done.output
    assert read([ours]).table.equals(read([folder]).table)
    assert "0 accepted" in lgbench("submit", mine, "--into", ours).output


def test_one_refused_cell_exits_1_and_the_others_are_merged(folder, tmp_path):
    sorted(folder.rglob("*.parquet"))[0].write_bytes(b"torn")
    done = lgbench("submit", folder, "--into", tmp_path / "ours")
    assert done.exit_code == 1 and "6 verdicts: 5 accepted, 1 refused" in done.output
    assert len(list((tmp_path / "ours").rglob("*.parquet"))) == 5


def test_every_option_of_the_guide_exists():
    shown = set(re.findall(r"lgbench regress[^\n`]*?(--[a-z]+)", DOCS.read_text()))
    shown |= {"--junit", "--summary", "--results", "--update"}
    text = CliRunner().invoke(app, ["regress", "--help"], terminal_width=200).output
    assert [option for option in shown if option not in text] == []
