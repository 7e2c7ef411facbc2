"""`lgbench claims` lists, shows and runs claims."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lgbench import cli, cli_run
from lgbench.claims import all_claims
from lgbench.plan.config import load_plan

ROOT = Path(__file__).parents[1]


@pytest.fixture
def empty(tmp_path):
    """A results folder without rows."""
    (tmp_path / "rows").mkdir()
    return tmp_path


def lgbench(*arguments):
    done = CliRunner().invoke(cli.app, ["claims", *map(str, arguments)], env={"COLUMNS": "200"})
    return done.exit_code, done.output


def test_without_rows_nothing_is_concluded(empty):
    code, output = lgbench("--results", empty, "--format", "json")
    found = json.loads(output)
    assert code == 0 and len(found) == len(all_claims())
    assert {one["verdict"] for one in found} == {"not run"}


def test_one_claim_is_shown_whole(empty):
    code, output = lgbench("m3", "--results", empty)
    assert code == 0 and "M3: not run" in output and "Inferred: the factor 16" in output
    assert "E(vanilla, L_train 128; 2,048) − chance" in output and "M1" not in output


def test_the_scorecard_is_written(empty, tmp_path):
    code, output = lgbench("M3", "--results", empty, "--out", tmp_path / "claims.md", "--format", "markdown")
    assert code == 0 and "### M3: not run" in output
    assert "### M1: not run" in (tmp_path / "claims.md").read_text()


def test_an_unknown_claim_is_one_line(empty):
    code, output = lgbench("M99", "--results", empty)
    assert code == 2 and output.startswith("lgbench: no claim 'M99'. Known: M1, ") and output.count("\n") == 1


def test_a_run_makes_what_the_claim_lacks(empty, monkeypatch):
    asked = {}

    def run(config, **options):
        asked.update(options, plan=load_plan(config, {}))

    monkeypatch.setattr(cli_run, "run", run)
    code, output = lgbench("--run", "M6", "--results", empty, "--device", "cpu", "--seeds", 4)
    assert code == 0, output
    assert (asked["results"], asked["device"], asked["dry_run"]) == (empty, "cpu", False)
    assert [plan.num_layers for plan in asked["plan"]] == [(8,), (2,)]
    assert all(plan.seeds == 4 and plan.train_length == (128,) for plan in asked["plan"])
    assert "M6: not run" in output


def test_what_is_there_is_not_run_again(monkeypatch):
    monkeypatch.setattr(cli_run, "run", None)
    code, output = lgbench("--run", "M3", "--results", ROOT / "results")
    assert code == 0 and "Nothing of M3 has to be run." in output and "M3: contradicted" in output


def test_a_file_that_cannot_be_read_is_named(empty, tmp_path):
    (empty / "rows" / "torn.parquet").write_bytes(b"torn")
    code, output = lgbench("M3", "--results", empty, "--out", tmp_path / "claims.md")
    assert code == 0 and "Could not read" in output and "torn.parquet" in output
    assert "torn.parquet" in (tmp_path / "claims.md").read_text()
