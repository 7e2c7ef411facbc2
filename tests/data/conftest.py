"""A cache of its own, no network, a table to fill and a local server for every test of the data layer."""

import hashlib
import http.server
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lgbench.data import sources


@pytest.fixture(autouse=True)
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
