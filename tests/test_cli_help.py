"""Help comes at once, in groups and with examples; -h, --version, completion and parameters of a plugin."""

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

import lgbench
from lgbench.cli import app
from lgbench.plan.params import describe_params
from lgbench.plugins.registry import BACKBONES, METHODS, TASKS

CHECKOUT = Path(__file__).parent.parent


def call(*arguments):
    return CliRunner().invoke(app, list(arguments), terminal_width=100)


def process(*arguments, **environment):
    code = f"import sys; sys.argv = ['lgbench', *{list(arguments)!r}]; from lgbench.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(CHECKOUT)} | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_options_of_a_run_stand_in_groups_each_once():
    shown = call("run", "--help").output
    titles = re.findall(r"^(\w+):$", shown, flags=re.MULTILINE)
    assert titles[:6] == ["What", "Sizes", "Training", "Evaluation", "Data", "Machine"]
    parts = dict(zip(titles, re.split(r"^\w+:$", shown, flags=re.MULTILINE)[1:], strict=True))
    for title, option in (
        ("What", "--method"),
        ("Sizes", "--d-state"),
        ("Training", "--learning-rate FLOAT,..."),
        ("Training", "--branch-decay-at"),
        ("Evaluation", "--eval-draw"),
        ("Data", "--results"),
        ("Machine", "--dry-run"),
    ):
        assert [name for name, part in parts.items() if f"  {option}" in part] == [title], option


def commands(group=None, path=()):
    """The words of every command."""
    group = group or get_command(app)
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield [*path, name]


@pytest.mark.parametrize("command", [[], *commands()], ids=" ".join)
def test_help_shows_examples_and_is_short_for_h(command):
    shown = call(*command, "--help").output
    lines = re.search(r"Examples:\n((?: +lgbench .*\n?)+)", shown)[1].splitlines()
    assert lines and all(line.split()[1 : 1 + len(command)] == command for line in lines)
    assert call(*command, "-h").output == shown


def test_every_example_of_the_help_is_a_line_that_the_command_line_takes():
    lines = re.findall(r"^ +(lgbench run .+)$", call("run", "-h").output, flags=re.MULTILINE)
    assert len(lines) >= 3
    for line in lines:
        options = re.findall(r"--[a-z-]+", line)
        assert options and all(f"  {option}" in call("run", "-h").output for option in options)


def test_the_version_is_said():
    assert call("--version").output == f"lgbench {lgbench.__version__}\n"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("lgbench ru", {"run"}),
        ("lgbench run --learn", {"--learning-rate"}),
        ("lgbench run --method state", {"state_passing"}),
    ],
)
def test_a_shell_completes_commands_options_and_names(words, expected):
    number = str(len(words.split()) - 1)
    done = process(_LGBENCH_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=number)
    assert set(done.stdout.split()) == expected, done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"]], ids=" ".join)
def test_help_comes_within_four_tenths_of_a_second(arguments):
    def cpu_s():
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert process(*arguments).returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(cpu_s() for _ in range(3)) < 0.4


@pytest.mark.parametrize(
    ("kind", "plugins"), [("tasks", TASKS), ("methods", METHODS), ("backbones", BACKBONES)]
)
def test_list_with_a_name_shows_every_parameter_with_default_range_and_meaning(kind, plugins):
    for name in plugins.names()[:4]:
        shown = call("list", kind, name).output
        assert shown.startswith(f"{name}: {plugins.summary(name)}")
        flat = " ".join(shown.split())
        for info in describe_params(plugins.load(name)):
            assert f"{info.name} (" in shown and f"default {info.default}" in shown
            assert info.range in shown and " ".join(info.description.split()) in flat


def test_decimamba_shows_its_own_parameters():
    shown = call("list", "methods", "decimamba").output
    assert "  beta (float, above 0, at most 1, default 0.5)\n      factor on the kept tokens" in shown


def test_a_name_that_is_no_plugin_is_one_line_with_the_nearest():
    result = call("list", "methods", "decimamb")
    assert result.exit_code == 2 and "Did you mean 'decimamba'?" in result.output
