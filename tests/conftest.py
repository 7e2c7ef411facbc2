"""Tests run on one thread, away from the user's cache, data and network; toys stand in for real plugins."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lgbench import registry

TOYS = Path(__file__).parent / "toys"

torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _no_outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache of this session, no data folder, and a mirror that refuses at once: port 1 is closed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LGBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("LGBENCH_MIRROR", "http://127.0.0.1:1")
        patch.setenv("NO_PROXY", "127.0.0.1")
        patch.delenv("LGBENCH_DATA", raising=False)
        yield


@pytest.fixture(autouse=True)
def _same_plugins() -> Iterator[None]:
    """Plugin files that a test registers are forgotten after it."""
    registries = (registry.TASKS, registry.METHODS)
    before = [(dict(r._found), dict(r._failed)) for r in registries]
    yield
    for plugins, (found, failed) in zip(registries, before, strict=True):
        plugins._found, plugins._failed = found, failed
        plugins._scanned = bool(found)


@pytest.fixture
def interpret() -> Callable[..., subprocess.CompletedProcess[str]]:
    """`interpret(__file__)` runs a test file in a process of its own, with Triton's kernels interpreted.

    Triton decides when a kernel is defined whether it is. Further arguments are options of pytest.
    """
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}

    def run(file: str, *options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options, file]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    return run


@pytest.fixture
def toys() -> list[Path]:
    """The toy plugins' files, registered: task toy_average, methods toy_shrink and toy_trouble."""
    files = sorted(TOYS.glob("toy_*.py"))
    for path in files:
        registry.add_file(path)
    return files


@pytest.fixture
def toy_options(toys: list[Path]) -> list[str]:
    """`lgbench run` options for the toy task at its only preset, on the CPU."""
    plugins = [word for path in toys for word in ("--plugin", str(path))]
    return ["run", "--task", "toy_average", "--preset", "smoke", "--device", "cpu", *plugins]


@pytest.fixture
def toy_task(toys: list[Path]) -> Any:
    """The toy task, prepared on the CPU."""
    task = registry.TASKS.load("toy_average")()
    task.prepare(torch.device("cpu"))
    return task


@pytest.fixture
def toy_cells(toy_task: Any) -> Callable[..., list]:
    """`toy_cells("vanilla", "toy_shrink[factor=0.5]", seeds=[0, 1], train_steps=[8], eval_items=4)` → cells.

    Keywords that are fields of `Axes` are grids, all others but `seeds` replace numbers of the recipe.
    """
    from lgbench.params import expand, parse_plugins
    from lgbench.plan import Axes, resolve_cells

    def make(*methods: str, seeds: Any = (0,), **numbers: Any) -> list:
        axes = {name: numbers.pop(name) for name in Axes.__slots__ if name in numbers}
        return resolve_cells(
            [("toy_average", toy_task)],
            [one for text in methods for request in parse_plugins(text) for one in expand(request)],
            seeds=seeds,
            preset="smoke",
            axes=Axes(**axes),
            overrides=numbers,
        )

    return make


@pytest.fixture
def run_toy(toy_task: Any, tmp_path: Path) -> Callable[..., tuple[Any, Any]]:
    """`run_toy(cells)` carries them out under `tmp_path / "runs"`; returns the outcome and the store."""
    import io

    from rich.console import Console

    from lgbench.launch.local import run_plan, task_key
    from lgbench.progress import Progress
    from lgbench.store import Store

    def run(cells: list, root: str = "runs", **options: Any) -> tuple[Any, Any]:
        store = Store(tmp_path / root)
        tasks = {task_key(cell): toy_task for cell in cells}
        return run_plan(cells, tasks, store, Progress(Console(file=io.StringIO())), **options), store

    return run
