"""Read everything in a results folder and compare it with its checksums."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from lgbench.store.readings import read_readings
from lgbench.store.rows_file import UNREADABLE, first_line, read_rows
from lgbench.store.seal import file_is_sealed

KINDS = ("rows", "environment", "weights", "resumable state", "fit", "readings")
"""What is verified."""

_ENVIRONMENT = re.compile(r"[0-9a-f]{12}")


class Finding(NamedTuple):
    """What was found out about one file."""

    kind: str
    path: Path
    has_checksum: bool
    """False in files from before there were checksums, of which only the form can be verified."""
    problem: str
    """Why it is damaged, in one line; empty if it is not."""


def verify(root: Path) -> Iterator[Finding]:
    """Every file of rows, environment, trained weights, resumable state, fit and reading, in the order of
    `KINDS`.

    A file of rows has a problem too when an environment that it refers to is missing. Nothing is changed.
    """
    yield from map(_rows, sorted((root / "rows").rglob("*.parquet")))
    yield from map(_environment, sorted((root / "environments").glob("*.json")))
    tensors = sorted((root / "checkpoints").rglob("*.safetensors"), key=lambda p: (KINDS.index(_kind(p)), p))
    yield from map(_tensors, tensors)
    yield from map(_readings, sorted((root / "probes").rglob("*.parquet")))


def _rows(path: Path) -> Finding:
    try:
        table = read_rows(path)
        sealed = b"lgbench_seal" in pq.read_metadata(path).metadata
        return Finding("rows", path, sealed, _missing_environment(path.parents[2], table))
    except UNREADABLE as error:
        return Finding("rows", path, True, first_line(error))


def _missing_environment(root: Path, table: pa.Table) -> str:
    for name in sorted(set(table["environment"].to_pylist()) - {None, ""}):
        if not _ENVIRONMENT.fullmatch(name):
            return f"its environment {name!r} is no hash"
        if not (root / "environments" / f"{name}.json").is_file():
            return f"its environment environments/{name}.json is missing"
    return ""


def _environment(path: Path) -> Finding:
    try:
        text = path.read_text(encoding="utf-8")
        json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        return Finding("environment", path, True, first_line(error))
    right = hashlib.sha256(text.rstrip("\n").encode()).hexdigest()[:12] == path.stem
    return Finding("environment", path, True, "" if right else "damaged: its name is not its hash")


def _tensors(path: Path) -> Finding:
    try:
        sealed = file_is_sealed(path)
        return Finding(_kind(path), path, sealed, "" if sealed else _form(path))
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        return Finding(_kind(path), path, True, first_line(error))


def _readings(path: Path) -> Finding:
    """Rows of a probe, and the arrays beside them."""
    try:
        read_readings(path, only_rows=not path.with_suffix(".safetensors").exists())
        return Finding("readings", path, True, "")
    except UNREADABLE as error:
        return Finding("readings", path, True, first_line(error))


def _form(path: Path) -> str:
    """Whether a safetensors file without checksum is as long as it says."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > path.stat().st_size:
            return "damaged: it ends within its header"
        header = json.loads(file.read(length))
    if set(header.pop("__metadata__", {})) != {"facts"}:
        return "damaged: its metadata are not those that were written"
    end = max((tensor["data_offsets"][1] for tensor in header.values()), default=0)
    return "" if path.stat().st_size == 8 + length + end else "damaged: it has another size than it says"


def _kind(path: Path) -> str:
    if path.name == "resume.safetensors":
        return "resumable state"
    return "fit" if path.name.startswith("fit-") else "weights"
