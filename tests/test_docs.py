"""What README and docs/ show is what there is: examples run as printed, generated pages are current."""

from __future__ import annotations

import importlib.util
import re
import shlex
import textwrap
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml
from typer.main import get_command
from typer.testing import CliRunner

import lgbench
from lgbench import store
from lgbench.cli import app
from lgbench.plan.config import load_plan
from lgbench.plugins import registry

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "results" / "README.md"]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
TEXT = "\n".join(page.read_text() for page in PAGES)
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def blocks(page: str | Path, language: str) -> list[str]:
    """Blocks of code of a page, whose path is relative to the root or absolute."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)


@pytest.fixture(scope="module")
def generate():
    """The module docs/generate.py."""
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 200


def test_pages_that_follow_from_the_code_are_current(generate):
    stale = [path.name for path, text in generate.reference().items() if path.read_text() != text]
    assert stale == [], "run: make docs"


def test_numbers_of_the_readme_and_of_the_findings_are_those_of_the_rows(generate):
    stale = [path.name for path, text in generate.from_results().items() if path.read_text() != text]
    assert stale == [], "run: make docs"


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_printed_whole(path: Path):
    assert f"```python\n{path.read_text()}```" in TEXT


def test_every_built_in_plugin_is_listed_in_the_readme():
    kinds = (registry.TASKS, registry.METHODS, registry.BACKBONES)
    assert [name for kind in kinds for name in kind.names() if f"`{name}`" not in README] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file(page: Path):
    links = re.findall(r"\]\((?!\w+:|#)([^)#\s]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_every_page_is_on_the_site():
    listed = set(re.findall(r": ([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text(), flags=re.MULTILINE))
    written = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    assert written - listed == set()


def test_the_commands_of_make_are_targets_of_the_makefile():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([\w-]+)", TEXT, flags=re.MULTILINE)) <= targets


def commands(group, above=()):
    """Words of all commands, those of groups included."""
    for name, command in group.commands.items():
        yield from commands(command, (*above, name)) if hasattr(command, "commands") else [(*above, name)]


@cache
def help_of(*command: str) -> str:
    """Help of a command; a UserError of an unknown one."""
    done = CliRunner().invoke(app, [*command, "--help"], terminal_width=200)
    assert done.exit_code == 0, f"no command: {' '.join(command)}"
    return done.output


def test_every_command_that_is_shown_exists_with_its_options():
    wrong = []
    consoles = "\n".join(code for page in PAGES for code in blocks(page, "console"))
    for line in re.findall(r"^lgbench (.+)$", consoles, flags=re.MULTILINE):
        words = shlex.split(line, comments=True)
        command = words[:2] if words[0] in ("data", "results") else words[:1]
        text = help_of(*command)
        wrong += [
            (line, word) for word in words if word.startswith("-") and not re.search(rf"{word}\b", text)
        ]
    assert wrong == []


def test_every_option_in_the_text_is_one_of_some_command():
    text = "\n".join(page.read_text() for page in PAGES if page.stem != "performance")
    shown = set(re.findall(r"`(--[a-z][a-z-]+)", text)) - {"--install-completion"}
    texts = [help_of(*command) for command in commands(get_command(app))]
    assert [option for option in shown if not any(option in one for one in texts)] == []


def test_the_plan_file_of_the_guide_can_be_read(tmp_path):
    (plan,) = blocks("docs/running.md", "yaml")
    path = tmp_path / "plan.yaml"
    path.write_text(plan)
    (run,) = load_plan(path, {})
    assert run.seeds == 3 and len(yaml.safe_load(plan)["method"]) == 2


def test_plugins_of_the_readme_and_of_examples_run_as_printed(tmp_path):
    model, method = blocks("README.md", "python")[:2]
    (tmp_path / "my_gru.py").write_text(model)
    (tmp_path / "slower.py").write_text(method)
    own = [tmp_path / "my_gru.py", tmp_path / "slower.py"]
    assert CliRunner().invoke(app, ["check", "--plugin", str(own[0])]).exit_code == 0
    command = ["run", "--task", "first-token", "--method", "vanilla,half-clock,slower", "--device", "cpu"]
    for path in EXAMPLES + own:
        command += ["--plugin", str(path)]
    command += ["--train-steps", "400", "--eval-lengths", "8,32,128", "--results", str(tmp_path)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    rows = store.read([tmp_path]).table.to_pandas().set_index(["method", "eval_length"])
    assert rows["training"].nunique() == 1
    assert rows.loc[("vanilla", 8), "value"] > 0.5 > rows.loc[("vanilla", 8), "chance"]
    for remedy in ("half_clock", "slower"):
        assert rows.loc[("vanilla", 32), "value"] == rows.loc[(remedy, 32), "value"]
        assert rows.loc[("vanilla", 128), "value"] != rows.loc[(remedy, 128), "value"]


def test_the_heart_of_a_task_in_the_readme_draws_what_the_example_draws():
    names = {}
    source = (ROOT / "examples" / "first_token.py").read_text() + "\n\nclass Heart(FirstToken):\n"
    exec(source + textwrap.indent(blocks("README.md", "python")[2], "    "), names)
    draws = [
        names[name]().sample(4, 9, 1, torch.Generator().manual_seed(0)) for name in ("Heart", "FirstToken")
    ]
    for one, other in zip(*(vars_of(draw) for draw in draws), strict=True):
        assert torch.equal(one, other)


def vars_of(batch):
    """The tensors of a batch."""
    return [*batch.context.values(), *batch.queries.values(), batch.targets]


def test_the_readme_runs_from_python(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = blocks("README.md", "python")[3]
    short = code.replace('preset="smoke"', 'preset="smoke", train_steps=2, lengths=[8, 64], eval_items=4')
    names = {}
    exec(short, names)
    assert short != code and set(names["rows"]["method"]) == {"vanilla", "slow_clock"}
    assert len(names["everything"]) == len(names["rows"]) and not names["model"].training


def test_the_pandas_page_runs_on_the_published_rows(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    names = {"lgbench": lgbench}
    for code in blocks("docs/pandas.md", "python"):
        exec(code, names)
    assert names["seeds"].loc[32768, "vanilla"] == 3
    assert 0 < names["sparse"]["cell"].nunique() < names["recall"]["cell"].nunique()
    assert "±" in capsys.readouterr().out
