"""Remember what was verified: a cache beside the rows, so that a resume need not read ten thousand files.

    RESULTS/manifest.jsonl      a line with format and checksum, then a line with what is known of each file

It is never the truth. A file counts as known only while its size and time are those of the manifest; a
manifest that is torn, damaged or of another format is empty. Whoever writes last wins, and what is lost is
read again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path
from typing import NamedTuple

from lgbench.errors import CannotWrite
from lgbench.store.files import atomic_file
from lgbench.store.schema import SCHEMA_VERSION

FORMAT = f"2, schema {SCHEMA_VERSION}"
"""Of the manifest, and of the rules that its entries were made by."""


class Known(NamedTuple):
    """What was found in a file of rows when it was verified."""

    size: int
    mtime_ns: int
    cell: str
    statuses: list[str]
    unfinished: str | None
    """Why its cell has to be measured again; None if it is finished."""
    version: int | None = None
    """Schema version of the file; None if nobody asked."""


class Manifest:
    """What is known of the files under `RESULTS/rows`.

    Args:
        root: the results folder.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.path = Path(root), Path(root) / "manifest.jsonl"
        self._files = _load(self.path)
        self._changed = False

    def known(self, path: Path) -> Known | None:
        """What is known of a file as it is now; None if it has to be read.

        Raises:
            OSError: there is no such file.
        """
        found, now = self._files.get(self._name(path)), path.stat()
        return found if found is not None and found[:2] == (now.st_size, now.st_mtime_ns) else None

    def add(self, path: Path, statuses: set[str], unfinished: str | None, version: int | None = None) -> None:
        """Note a file that was verified just now."""
        with contextlib.suppress(OSError):  # gone already
            now = path.stat()
            known = Known(now.st_size, now.st_mtime_ns, path.stem, sorted(statuses), unfinished, version)
            self._files[self._name(path)] = known
            self._changed = True

    def __enter__(self) -> Manifest:
        return self

    def __exit__(self, *_: object) -> None:
        self.save()

    def save(self) -> None:
        """Write what is new here and what others wrote; a folder that cannot be written stays without."""
        if not self._changed:
            return
        self._files = _load(self.path) | self._files
        body = json.dumps(self._files, separators=(",", ":"))
        head = json.dumps({"format": FORMAT, "sha256": hashlib.sha256(body.encode()).hexdigest()})
        with contextlib.suppress(CannotWrite), atomic_file(self.path) as temporary:
            temporary.write_text(f"{head}\n{body}\n", encoding="utf-8")
        self._changed = False

    def _name(self, path: Path) -> str:
        return f"{path.parent.name}/{path.name}"


def _load(path: Path) -> dict[str, Known]:
    try:
        head, body = path.read_text(encoding="utf-8").splitlines()
        stated = json.loads(head)
        if stated == {"format": FORMAT, "sha256": hashlib.sha256(body.encode()).hexdigest()}:
            return {name: Known(*entry) for name, entry in json.loads(body).items()}
    except (OSError, ValueError, RecursionError):
        pass
    return {}
