"""What the README shows is what there is: examples run as printed, the schema and the lists are complete."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lgbench import store
from lgbench.cli import app
from lgbench.plugins import registry

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
MODELS = (ROOT / "docs" / "models.md").read_text()
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_printed_whole(path: Path):
    assert f"```python\n{path.read_text()}```" in README + MODELS


def test_schema_table_is_that_of_the_store():
    table = README[README.index("| column | type |") :]
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \| ([^|]+) \|$", table, flags=re.MULTILINE)
    assert rows == [(f.name, str(f.type), f.metadata[b"doc"].decode()) for f in store.SCHEMA]


def test_every_built_in_plugin_is_listed():
    missing = [
        n
        for n in [*registry.METHODS.names(), *registry.TASKS.names(), *registry.BACKBONES.names()]
        if f"| `{n}` |" not in README
    ]
    assert missing == []


def test_every_relative_link_leads_to_a_file():
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert links and [link for link in links if not (ROOT / link).exists()] == []


def test_the_two_commands_are_targets_of_the_makefile():
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"^make (\w+) ", README, flags=re.MULTILINE)) <= targets
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_every_option_that_it_shows_exists():
    shown = set(re.findall(r"(?<=[\s`])--[a-z][a-z-]+", README))
    commands = ("run", "report", "leaderboard", "data list", "list", "show", "check")
    commands += ("compare", "regress", "export", "submit")
    texts = [
        CliRunner().invoke(app, [*command.split(), "--help"], terminal_width=200).output
        for command in commands
    ]
    assert shown and [option for option in shown if not any(option in text for text in texts)] == []


def test_examples_run_as_the_readme_says(tmp_path: Path):
    command = ["run", "--task", "first-token", "--method", "vanilla,half-clock", "--device", "cpu"]
    for path in EXAMPLES:
        command += ["--plugin", str(path)]
    command += ["--train-steps", "400", "--eval-lengths", "8,32,128", "--results", str(tmp_path)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    rows = store.read([tmp_path]).table.to_pandas().set_index(["method", "eval_length"])
    assert rows.loc["vanilla", "training"].iloc[0] == rows.loc["half_clock", "training"].iloc[0]
    assert rows.loc[("vanilla", 8), "value"] > 0.5 > rows.loc[("vanilla", 8), "chance"]
    assert rows.loc[("vanilla", 32), "value"] == rows.loc[("half_clock", 32), "value"]
    assert rows.loc[("vanilla", 128), "value"] != rows.loc[("half_clock", 128), "value"]
