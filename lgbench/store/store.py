"""Keep every measurement: one parquet file a finished cell, one documented schema, nothing half-written.

    RESULTS/rows/TASK/CELL.parquet          the rows of one cell
    RESULTS/environments/HASH.json          versions and hardware, once a run, referred to by rows
    RESULTS/checkpoints/TRAINING/           trained weights (see `lgbench.run.checkpoint`), not needed by any
    reader

Readers (report, leaderboard) need this module alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lgbench.errors import UserError
from lgbench.store.files import atomic_file
from lgbench.store.schema import SCHEMA, SCHEMA_VERSION


@dataclass
class Reading:
    """All rows of some results folders, and the files that could not be read (path → reason)."""

    table: pa.Table
    unreadable: dict[Path, str] = field(default_factory=dict)


class Store:
    """A results folder.

    Args:
        root: the folder; made when first written to.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def path(self, task: str, cell: str) -> Path:
        """File of a cell's rows."""
        return self.root / "rows" / task / f"{cell}.parquet"

    def check_writable(self) -> None:
        """Find out before hours of training whether anything can be written here; a UserError if not."""
        with atomic_file(self.root / ".writable"):
            pass
        (self.root / ".writable").unlink()

    def has(self, task: str, cell: str) -> bool:
        """Whether a cell is finished: its file is readable and no row of it asks to be tried again."""
        try:
            statuses = pq.read_table(self.path(task, cell), columns=["status"])["status"].to_pylist()
        except (OSError, pa.ArrowException):
            return False
        return bool(statuses) and not {"failed", "out_of_memory"} & set(statuses)

    def write(self, task: str, cell: str, rows: Sequence[Mapping[str, Any]]) -> Path:
        """Store the rows of one cell in one file, atomically; replaces an earlier file of the same cell.

        Raises:
            ValueError: a row lacks a column or has one that the schema does not know.
            UserError: the folder cannot be written or the disk is full; nothing half-written remains.
        """
        names = set(SCHEMA.names)
        for row in rows:
            if set(row) != names:
                raise ValueError(f"row and schema differ: {sorted(set(row) ^ names)}")
        table = pa.Table.from_pylist([dict(r) for r in rows], schema=SCHEMA)
        target = self.path(task, cell)
        with atomic_file(target) as temporary:
            pq.write_table(table, temporary, compression="zstd")
        return target

    def write_environment(self, facts: Mapping[str, Any]) -> str:
        """Keep versions and hardware once; returns their hash."""
        text = json.dumps(facts, indent=1, sort_keys=True)
        name = hashlib.sha256(text.encode()).hexdigest()[:12]
        target = self.root / "environments" / f"{name}.json"
        if not target.exists():
            with atomic_file(target) as temporary:
                temporary.write_text(text + "\n")
        return name


def read(roots: Sequence[Path]) -> Reading:
    """Rows of all readable files under `RESULTS/rows`; an unreadable one is named, skipped and left alone.

    Raises:
        UserError: a folder does not exist.
    """
    tables, unreadable = [], {}
    for root in roots:
        if not Path(root).is_dir():
            raise UserError(f"no results folder '{root}'. Make one with: lgbench run --results {root}")
        for path in sorted((Path(root) / "rows").rglob("*.parquet")):
            try:
                tables.append(_read_file(path))
            except (OSError, ValueError, pa.ArrowException) as error:
                unreadable[path] = str(error).splitlines()[0]
    table = pa.concat_tables(tables) if tables else SCHEMA.empty_table()
    return Reading(table, unreadable)


def _read_file(path: Path) -> pa.Table:
    table = pq.read_table(path)
    version = (table.schema.metadata or {}).get(b"lgbench_schema_version", b"none").decode()
    if version != str(SCHEMA_VERSION):
        raise ValueError(
            f"schema version {version}, this lgbench reads {SCHEMA_VERSION}; run its cell again with --force"
        )
    if missing := set(SCHEMA.names) - set(table.schema.names):
        raise ValueError(f"no column {', '.join(sorted(missing))}; run its cell again with --force")
    return table.select(SCHEMA.names).cast(SCHEMA)
