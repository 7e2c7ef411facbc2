"""Tests run on one thread, away from the user's cache, data and network; toys stand in for real plugins."""

from __future__ import annotations

import gc
import hashlib
import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from lgbench.data import sources
from lgbench.plugins import registry

os.environ.pop("COLUMNS", None)  # the runner's window is not that of the commands under test

TOYS = Path(__file__).parent / "toys"

torch.set_num_threads(1)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Leave what is imported by now out of collections of garbage, which cost a fifth of a second each."""
    gc.freeze()


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
    registries = registry.ALL
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

    Keywords with a list are grids, all others but `seeds` replace numbers of the recipe.
    """
    from lgbench.plan.axes import Axes
    from lgbench.plan.cells import resolve_cells
    from lgbench.plan.options import OWN_AXES
    from lgbench.plan.params import expand, parse_plugins

    def make(*methods: str, seeds: Any = (0,), **numbers: Any) -> list:
        grids = {*OWN_AXES, *(name for name, value in numbers.items() if isinstance(value, list | range))}
        axes = {name: numbers.pop(name) for name in sorted(grids) if name in numbers}
        if "backbone" in axes:
            axes["backbone"] = [
                one for text in axes["backbone"] for r in parse_plugins(text) for one in expand(r)
            ]
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

    from lgbench.launchers.local import run_plan, task_key
    from lgbench.run.progress import Progress
    from lgbench.store import Store

    def run(cells: list, root: str = "runs", **options: Any) -> tuple[Any, Any]:
        store = Store(tmp_path / root)
        tasks = {task_key(cell): toy_task for cell in cells}
        return run_plan(cells, tasks, store, Progress(Console(file=io.StringIO())), **options), store

    return run


@pytest.fixture
def no_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the user's cache and data nor the network are reachable; port 1 refuses at once."""
    monkeypatch.setenv("LGBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LGBENCH_MIRROR", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("LGBENCH_DATA", raising=False)


@pytest.fixture
def publish(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make given files the published ones; the others of the real table keep impossible checksums."""

    def replace_table(*paths: Path) -> None:
        real = {path.name: path.read_bytes() for path in paths}
        table = []
        for entry in sources.DATA_SETS:
            files = []
            for file in entry.files:
                content = real.get(file.name, b"")
                digest = hashlib.sha256(content).hexdigest() if content else "0" * 64
                files.append(
                    sources.DataFile(
                        name=file.name, url=file.url, checksum=f"sha256:{digest}", size_bytes=len(content)
                    )
                )
            table.append(
                sources.DataSet(
                    name=entry.name,
                    folder=entry.folder,
                    files=tuple(files),
                    licence=entry.licence,
                    citation=entry.citation,
                    purpose=entry.purpose,
                )
            )
        monkeypatch.setattr(sources, "DATA_SETS", tuple(table))

    return replace_table


@dataclass
class Server:
    """Serves `folder`; keeps the paths that were asked for."""

    url: str
    folder: Path
    asked: list[str] = field(default_factory=list)
    break_off: bool = False
    """Announce a whole file and send half of it."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A local HTTP server on a free port."""
    served = Server("", tmp_path / "served")
    served.folder.mkdir()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.asked.append(self.path)
            path = served.folder / self.path.lstrip("/")
            if not path.is_file():
                self.send_error(404)
                return
            content = path.read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if served.break_off else content)

        def log_message(self, *_: object) -> None:
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.url = f"http://127.0.0.1:{httpd.server_address[1]}"
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield served
    httpd.shutdown()
    thread.join()
    httpd.server_close()
