"""The plan of the house: no circle of imports, nothing imports what is to its left, files stay short."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LONGEST_MODULE = 400


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    return ".".join(parts if parts[0] == "lgbench" else ("lgbench", *parts))


MODULES = {
    module_name(path): path
    for top in ("lgbench", "tasks", "methods")
    for path in sorted((ROOT / top).rglob("*.py"))
}


def imported_at_once(path):
    """Modules of ours that are imported when this one is: not those inside functions or for type checkers."""
    pending = list(ast.parse(path.read_text(encoding="utf-8")).body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            yield from (item.name for item in node.names if item.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = [f"{node.module}.{item.name}" for item in node.names]
            yield from (name for name in inner if name in MODULES)
            if node.module in MODULES and not all(name in MODULES for name in inner):
                yield node.module
        elif isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.unparse(node.test):
            pending += [*node.body, *node.orelse]
        elif isinstance(node, ast.Try):
            pending += [*node.body, *(line for handler in node.handlers for line in handler.body)]


GRAPH = {name: {found for found in imported_at_once(path)} - {name} for name, path in MODULES.items()}


def reachable(start):
    seen, pending = set(), [start]
    while pending:
        for name in GRAPH[pending.pop()] - seen:
            seen.add(name)
            pending.append(name)
    return seen


def test_no_module_imports_itself_by_way_of_others():
    circles = {name for name in GRAPH if name in reachable(name)}
    assert not circles


FIRST = ("lgbench.run", "lgbench.launchers", "lgbench.plan", "lgbench.report", "lgbench.cli")


@pytest.mark.parametrize(
    ("right", "left"),
    [
        ("lgbench.store", FIRST),
        ("lgbench.stats", FIRST),
        ("lgbench.report", ("lgbench.run", "lgbench.launchers", "lgbench.cli", "lgbench.models")),
        (
            "lgbench.answers",
            ("lgbench.run", "lgbench.launchers", "lgbench.plan", "lgbench.cli", "lgbench.bench"),
        ),
        ("lgbench.run", ("lgbench.launchers", "lgbench.report", "lgbench.cli")),
        ("lgbench.plan", ("lgbench.launchers", "lgbench.report", "lgbench.cli")),
        ("lgbench.models", ("lgbench.launchers", "lgbench.report", "lgbench.cli", "lgbench.store")),
        ("lgbench.ops", ("lgbench.run", "lgbench.plan", "lgbench.models", "lgbench.store", "lgbench.tasks")),
    ],
)
def test_nothing_imports_what_stands_to_its_left(right, left):
    wrong = {
        (name, other)
        for name, others in GRAPH.items()
        if name == right or name.startswith(f"{right}.")
        for other in others
        if other.startswith(left)
    }
    assert not wrong


def test_reports_and_statistics_run_without_torch():
    code = (
        "import sys, lgbench.report.page, lgbench.stats.ranking, lgbench.answers.compare, "
        "lgbench.answers.regress, lgbench.answers.submit; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_no_module_is_longer_than_a_reader_likes():
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in MODULES.items()}
    assert {name: length for name, length in lengths.items() if length > LONGEST_MODULE} == {}
