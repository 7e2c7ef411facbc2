"""The wheel holds everything and runs from anywhere; a checkout on the path finds its own plugins."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy of the sources, unpacked."""
    pytest.importorskip("setuptools")
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    shipped = (path for top in ("lgbench", "tasks", "methods") for path in (ROOT / top).rglob("*"))
    for path in [*ROOT.glob("*"), *shipped]:
        name = path.relative_to(ROOT)
        if path.is_file() and "__pycache__" not in path.parts:
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes(path.read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "--quiet"]
    done = subprocess.run([*command, "-w", built], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [file] = built.glob("lgbench-*.whl")
    with zipfile.ZipFile(file) as archive:
        archive.extractall(built / "site")
    return built / "site"


def run(*arguments, path, folder):
    environment = os.environ | {"PYTHONPATH": str(path), "COLUMNS": "120"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )


def test_every_module_is_in_the_wheel(wheel):
    folders = {"lgbench": "lgbench", "tasks": "lgbench/tasks", "methods": "lgbench/methods"}
    missing = [
        path
        for top, place in folders.items()
        for path in (ROOT / top).rglob("*")
        if path.suffix in (".py", ".jinja", ".typed")
        and not (wheel / place / path.relative_to(ROOT / top)).is_file()
    ]
    assert not missing


def test_the_installed_package_lists_and_describes_its_plugins(wheel, tmp_path):
    done = run("-m", "lgbench", "list", path=wheel, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {"omniglot", "passkey", "marked_recall", "vanilla", "decimamba"} <= set(done.stdout.split())


def test_the_console_command_is_declared(wheel):
    [points] = wheel.glob("lgbench-*.dist-info/entry_points.txt")
    assert "lgbench = lgbench.cli:main" in points.read_text()


@pytest.mark.parametrize("first", ["wheel", "checkout"])
def test_what_comes_first_on_the_path_brings_its_own_plugins(wheel, tmp_path, first):
    roots = {"wheel": wheel, "checkout": ROOT}
    path = os.pathsep.join(map(str, [roots.pop(first), *roots.values()]))
    code = "from lgbench.plugins.registry import TASKS; print(TASKS.place('marked_recall'))"
    done = run("-c", code, path=path, folder=tmp_path)
    home = (wheel / "lgbench" if first == "wheel" else ROOT) / "tasks"
    assert Path(done.stdout.strip()).parent == home.resolve(), done.stderr
