"""Share one results folder among processes: whoever holds the lease of a piece of work does it.

    RESULTS/leases/workers/OWNER.json     a process: who it is, a heartbeat that counts, what it does
    RESULTS/leases/NAME/OWNER             the lease of a piece of work, and the process that holds it

Nothing is locked. Three operations decide, and each one is a single rename on the file server:

- **take**: rename a new folder that holds `OWNER` to `NAME`. That fails where `NAME` has an owner already.
- **take over**: rename `NAME/OLD` to `NAME/OWNER`. That fails where `OLD` holds it no longer. No name of an
  owner comes twice, so a lease that changed hands in the meantime cannot be taken by mistake.
- **release**: remove `NAME/OWNER`, then the empty folder.

An owner is stale when its heartbeat has not *changed* for `STALE_S` seconds of the observer's own monotonic
clock: no time of a file and no clock of another machine is read. A process of this machine that is gone is
stale at once.

**NFS.** A rename is atomic on the server. Its reply may be lost and the repeated request fail; therefore an
error is believed only after a look whether the file has our name. Clients may show a heartbeat up to a
minute late (`acregmax`, `acdirmax`), which `STALE_S` exceeds twice. Mount options need no change.

Leases save work; correct rows do not need them: every file is written whole, and two processes that make the
same one write the same numbers.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lgbench.errors import CannotWrite
from lgbench.store.process import gone, identity

BEAT_S = 5.0
"""Seconds between two heartbeats."""

STALE_S = 120.0
"""Seconds without a heartbeat after which the work of a process is taken over."""

_TAKEN = (errno.ENOTEMPTY, errno.EEXIST)


class Leases:
    """The leases that this process holds and asks for, with its heartbeat; a context manager.

    Args:
        root: the results folder.
        owner: a name that no other process has or had; made up if left out.
        beat_s: seconds between two heartbeats.
        stale_s: seconds without one after which a lease is taken over.
        clock: seconds that never go back, of this process.
    """

    def __init__(
        self,
        root: Path,
        owner: str | None = None,
        *,
        beat_s: float = BEAT_S,
        stale_s: float = STALE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder = Path(root) / "leases"
        self.owner = owner or new_owner()
        self.beat_s, self.stale_s, self.clock = beat_s, stale_s, clock
        self.lost = False
        """Whether another process took over something that this one held; whoever acts on it resets it."""
        self._held: set[str] = set()
        self._seen: dict[str, tuple[bytes, float]] = {}
        self._now: dict[str, Any] = {}
        self._cells: dict[str, Any] = {}
        self._began = self._now_since = clock()
        self._started_at = datetime.now(UTC).isoformat(timespec="seconds")
        self._beats = 0
        self._guard, self._over = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Leases:
        self._beat()
        collect(self.folder.parent)
        self._thread = threading.Thread(target=self._keep_beating, name="heartbeat", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        for name in sorted(self._held):
            self.release(name)
        with contextlib.suppress(OSError):
            self._worker(self.owner).unlink()
        _remove_empty(self.folder)

    def take(self, name: str) -> bool:
        """Get the lease of a piece of work; False if another process holds it.

        Raises:
            CannotWrite: the folder cannot be written.
        """
        if name in self._held:
            return True
        try:
            holder = holder_of(self.folder / name)
            if holder is None:
                self._create(name)
            elif self._stale(holder):
                os.rename(self.folder / name / holder, self.folder / name / self.owner)
            else:
                return False
        except OSError as error:
            if error.errno not in (*_TAKEN, errno.ENOENT):
                raise CannotWrite(f"cannot write {self.folder}: {error.strerror or error}") from error
        if not (self.folder / name / self.owner).exists():
            return False
        with self._guard:
            self._held.add(name)
        return True

    def release(self, name: str) -> None:
        """Give a lease back; nothing happens if it is not held."""
        with self._guard:
            self._held.discard(name)
        with contextlib.suppress(OSError):
            (self.folder / name / self.owner).unlink()
            (self.folder / name).rmdir()

    def tell(self, event: Mapping[str, Any]) -> None:
        """Note what this process does now, for `lgbench status`; written with the next heartbeat.

        Args:
            event: as `lgbench.run.progress` makes them.
        """
        with self._guard:
            if event["event"] in ("plan", "cell"):
                if event["total"]:  # of a worker it is unknown
                    self._cells = {"done": event.get("done", 0), "total": event["total"]}
                return
            if (event["event"], event.get("name")) != (self._now.get("event"), self._now.get("name")):
                self._now_since = self.clock()
            self._now = dict(event)

    def _create(self, name: str) -> None:
        """Make a folder that holds our name, then rename it; `leases` may be removed by others meanwhile."""
        fresh = self.folder / f".{self.owner}"
        for _ in range(10):
            with contextlib.suppress(FileNotFoundError):
                self.folder.mkdir(parents=True, exist_ok=True)
                fresh.mkdir(exist_ok=True)
                (fresh / self.owner).touch()
                break
        try:
            os.rename(fresh, self.folder / name)
        except OSError:
            with contextlib.suppress(OSError):
                (fresh / self.owner).unlink()
                fresh.rmdir()
            raise

    def _stale(self, owner: str) -> bool:
        if owner == self.owner:
            return True
        beat = _content(self._worker(owner))
        if _is_gone(beat):
            return True
        seen, now = self._seen.get(owner), self.clock()
        if seen is None or seen[0] != beat:
            self._seen[owner] = beat, now
            return False
        return now - seen[1] >= self.stale_s

    def _keep_beating(self) -> None:
        while not self._over.wait(self.beat_s):
            self._beat()
            with self._guard:
                held = tuple(self._held)
            gone = {name for name in held if not (self.folder / name / self.owner).exists()}
            with self._guard:
                gone &= self._held
                self._held -= gone
            self.lost |= bool(gone)

    def _beat(self) -> None:
        """Write who this is and what it does. A torn file is a changed one: it needs no rename."""
        self._beats += 1
        with self._guard:
            now = self.clock()
            facts = {
                **identity(), "beat": self._beats, "started_at": self._started_at, "now": self._now,
                "for_s": now - self._now_since, "cells": {**self._cells, "for_s": now - self._began},
            }  # fmt: skip
        path = self._worker(self.owner)
        with contextlib.suppress(OSError):  # a full disk ends the run elsewhere, with a message
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(facts), encoding="utf-8")

    def _worker(self, owner: str) -> Path:
        return self.folder / "workers" / f"{owner}.json"


def new_owner() -> str:
    """A name that no process has had."""
    return secrets.token_hex(8)


def collect(root: Path) -> None:
    """Remove what killed processes of this machine left: their leases and heartbeats."""
    folder = Path(root) / "leases"
    for path in sorted((folder / "workers").glob("*.json")):
        if _is_gone(_content(path)):
            for lease in [*folder.glob(f"*/{path.stem}"), *folder.glob(f".*/{path.stem}")]:
                with contextlib.suppress(OSError):
                    lease.unlink()
                    lease.parent.rmdir()
            with contextlib.suppress(OSError):
                path.unlink()
    _remove_empty(folder)


def _remove_empty(folder: Path) -> None:
    for empty in (folder / "workers", folder):
        with contextlib.suppress(OSError):  # others are at work
            empty.rmdir()


def holder_of(place: Path) -> str | None:
    """The owner of a lease; None if it is free."""
    try:
        names = os.listdir(place)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return names[0] if names else None


def held_by(root: Path, owner: str) -> list[str]:
    """Names of the leases that a process holds."""
    return sorted(path.parent.name for path in (Path(root) / "leases").glob(f"[!.]*/{owner}"))


def workers(root: Path) -> dict[str, dict[str, Any]]:
    """What every process at work on a results folder says of itself, by owner; a torn file is left out."""
    found = {}
    for path in sorted((Path(root) / "leases" / "workers").glob("*.json")):
        with contextlib.suppress(ValueError):
            found[path.stem] = json.loads(_content(path))
    return found


def _is_gone(beat: bytes) -> bool:
    """Whether a heartbeat is of a process of this machine that exists no longer."""
    try:
        return gone(json.loads(beat))
    except (ValueError, KeyError, TypeError):
        return False


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
