"""Every module imports, every command answers --help, and nothing heavy is imported before it is needed."""

import importlib
import importlib.util
import os
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

import lgbench
from lgbench.cli import app

CHECKOUT = Path(__file__).parent.parent
HEAVY = ("torch", "pandas", "matplotlib", "seaborn", "pyarrow", "scipy", "numpy", "jinja2")
COMMANDS = (
    [],
    ["run"],
    ["report"],
    ["leaderboard"],
    ["list"],
    ["doctor"],
    ["status"],
    ["data"],
    ["data", "list"],
    ["data", "fetch"],
    ["data", "verify"],
    ["results"],
    ["results", "verify"],
    ["results", "migrate"],
)


def modules():
    for package in ("lgbench", "lgbench.tasks", "lgbench.methods"):
        where = importlib.import_module(package).__path__
        prefixed = pkgutil.walk_packages(list(where)[:1], f"{package}.")
        yield from (m.name for m in prefixed)


@pytest.mark.parametrize("name", sorted(set(modules())))
def test_every_module_imports_and_says_what_it_is_for(name):
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        assert error.name in ("triton", "mamba_ssm", "ray"), f"{name} needs {error.name}, which is no extra"
        pytest.skip(f"{error.name} is not installed")
    if Path(module.__file__).read_text().strip():
        assert module.__doc__ and module.__doc__.strip()


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_answers_help(words):
    result = CliRunner().invoke(app, [*words, "--help"])
    assert result.exit_code == 0 and "Usage:" in result.stdout


def imported_by(*arguments):
    """The heavy modules that a command has imported when it ends, in a process of its own."""
    code = (
        "import sys\n"
        "from lgbench import cli\n"
        f"sys.argv = ['lgbench', *{list(arguments)!r}]\n"
        "try:\n    cli.main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        f"print('HEAVY', *[name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].split()[1:]


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["list"]], ids=" ".join)
def test_help_and_list_import_nothing_heavy(arguments):
    assert imported_by(*arguments) == []


def test_data_list_does_not_import_torch():
    assert "torch" not in imported_by("data", "list")


def test_reading_results_does_not_import_torch():
    code = (
        "import sys, lgbench.store, lgbench.report.page, lgbench.report.leaderboard, lgbench.report.tables\n"
    )
    code += "assert 'torch' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


def test_every_extra_named_in_a_message_exists():
    extras = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = set()
    for folder in ("lgbench", "tasks", "methods"):
        for path in (CHECKOUT / folder).rglob("*.py"):
            named |= set(re.findall(r"lgbench\[([a-z]+)\]", path.read_text()))
    assert named <= set(extras), named - set(extras)


def test_the_core_names_no_plugin():
    """Plugins are found, not known: no core module imports one or tests for its name."""
    names = {p.stem for folder in ("tasks", "methods") for p in (CHECKOUT / folder).glob("[a-z]*.py")}
    for path in (CHECKOUT / "lgbench").glob("*.py"):
        imports = re.findall(r"^\s*(?:from|import) (lgbench\.(?:tasks|methods)\S*)", path.read_text(), re.M)
        assert imports == [], path
        compared = re.findall(r"==\s*[\"'](\w+)[\"']", path.read_text())
        assert not names & set(compared), path


def test_the_version_is_that_of_the_package():
    declared = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["version"]
    assert lgbench.__version__ == declared
