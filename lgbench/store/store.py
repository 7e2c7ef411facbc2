"""Keep every measurement: one parquet file a finished cell, one documented schema, nothing half-written.

    RESULTS/rows/TASK/CELL.parquet          the rows of one cell
    RESULTS/environments/HASH.json          versions and hardware, once a run, referred to by rows
    RESULTS/checkpoints/TRAINING/           trained weights (see `lgbench.run.checkpoint`), not needed by any
    reader, and `losses.json`, which the report draws
    RESULTS/manifest.jsonl                  a cache of what was verified; may be deleted at any time
    RESULTS/cache/HASH.arrow                a cache of rows, see `lgbench.store.pack`; may be deleted, too

Readers (report, leaderboard) need this module alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from lgbench.errors import UserError
from lgbench.store.files import atomic_file, put_aside
from lgbench.store.manifest import Manifest
from lgbench.store.pack import WORTH, Stamp, name_of, stamp, write_pack
from lgbench.store.rows_file import UNREADABLE, first_line, read_rows, schema_version, unfinished, write_rows
from lgbench.store.schema import SCHEMA, SCHEMA_VERSION

if TYPE_CHECKING:
    import pandas as pd


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
        self._manifest: Manifest | None = None
        self._written: dict[str, tuple[Stamp, pa.Table]] = {}

    @property
    def manifest(self) -> Manifest:
        """What is known of its files, loaded at the first use."""
        if self._manifest is None:
            self._manifest = Manifest(self.root)
        return self._manifest

    def path(self, task: str, cell: str) -> Path:
        """File of a cell's rows."""
        return self.root / "rows" / task / f"{cell}.parquet"

    def check_writable(self) -> None:
        """Find out before hours of training whether anything can be written here; a UserError if not."""
        with atomic_file(self.root / ".writable"):
            pass
        (self.root / ".writable").unlink()

    def finished(self, task: str, cell: str) -> bool:
        """Whether a cell need not be measured again: its file is accepted by readers and has all rows."""
        return self.unfinished([(task, cell)]) == {}

    def statuses(self, task: str, cell: str) -> list[str]:
        """Statuses of the rows of a cell, each once.

        Raises:
            OSError, ValueError: there are none that can be read.
        """
        path = self.path(task, cell)
        known = self.manifest.known(path)
        return known.statuses if known else sorted(set(read_rows(path)["status"].to_pylist()))

    def unfinished(self, cells: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
        """Which of these cells (task and key) have to be measured, and why; "" for those without a file."""
        reasons = {}
        for task, cell in cells:
            path = self.path(task, cell)
            try:
                known = self.manifest.known(path)
                reason = known.unfinished if known else self._examine(path)
            except FileNotFoundError:
                reason = ""
            except UNREADABLE as error:
                reason = first_line(error)
            if reason is not None:
                reasons[task, cell] = reason
        self.manifest.save()
        return reasons

    def of_older_schemas(self, tasks: Iterable[str]) -> list[Path]:
        """Files of rows of these tasks that an older lgbench wrote, whose cells may have other keys today."""
        found = []
        for path in [path for task in tasks for path in sorted(self.path(task, "").parent.glob("*.parquet"))]:
            try:
                known = self.manifest.known(path)
                version = known.version if known else None
                if version is None:
                    version = schema_version(path)
                    if known:
                        self.manifest.add(path, set(known.statuses), known.unfinished, version)
            except UNREADABLE:
                continue  # the reader says why
            if version < SCHEMA_VERSION:
                found.append(path)
        self.manifest.save()
        return found

    def write(self, task: str, cell: str, rows: Sequence[Mapping[str, Any]]) -> Path:
        """Store the rows of one cell in one file, atomically; replaces an earlier file of the same cell.

        An earlier file that is damaged is kept beside it, as `CELL.parquet.damaged`.

        Raises:
            ValueError: there is no row; a row is another cell's, lacks a column, or has one that the schema
                does not know.
            UserError: the folder cannot be written or the disk is full; nothing half-written remains.
        """
        if not rows:
            raise ValueError(f"no rows of cell {cell}")
        names = set(SCHEMA.names)
        for row in rows:
            if set(row) != names:
                raise ValueError(f"row and schema differ: {sorted(set(row) ^ names)}")
            if row["cell"] != cell:
                raise ValueError(f"a row of cell {row['cell']} in the file of cell {cell}")
        return self.write_table(task, cell, pa.Table.from_pylist([dict(r) for r in rows], schema=SCHEMA))

    def write_table(self, task: str, cell: str, table: pa.Table) -> Path:
        """Store the rows of one cell as `write` does, from a table of the current schema.

        Raises:
            UserError: the folder cannot be written or the disk is full; nothing half-written remains.
        """
        target = self.path(task, cell)
        if target.exists() and not self._is_readable(target):
            put_aside(target)
        write_rows(target, table)
        self._remember(target, table)
        return target

    def write_environment(self, facts: Mapping[str, Any]) -> str:
        """Keep versions and hardware once; returns their hash."""
        text = json.dumps(facts, indent=1, sort_keys=True)
        name = hashlib.sha256(text.encode()).hexdigest()[:12]
        target = self.root / "environments" / f"{name}.json"
        if not target.exists():
            with atomic_file(target) as temporary:
                temporary.write_text(text + "\n", encoding="utf-8")
        return name

    def _remember(self, path: Path, table: pa.Table) -> None:
        """Note what was just written, so that no reader need open it: cells by the dozen in one file."""
        statuses = set(table["status"].to_pylist())
        self.manifest.add(path, statuses, unfinished(table), SCHEMA_VERSION)
        self._written[name_of(path)] = stamp(path), table
        if len(self._written) >= WORTH:
            write_pack(self.root, self._written)
            self._written = {}
            self.manifest.save()

    def _examine(self, path: Path) -> str | None:
        table = read_rows(path)
        reason = unfinished(table)
        self.manifest.add(path, set(table["status"].to_pylist()), reason)
        return reason

    def _is_readable(self, path: Path) -> bool:
        try:
            read_rows(path)
        except UNREADABLE:
            return False
        return True


def read(roots: Sequence[Path]) -> Reading:
    """Rows of all readable files under `RESULTS/rows`; an unreadable one is named, skipped and left alone.

    Raises:
        UserError: a folder does not exist.
    """
    tables, unreadable = [], {}
    for root in roots:
        paths = row_files(Path(root))
        with Manifest(Path(root)) as manifest:
            for path in paths:
                try:
                    tables.append(read_known(manifest, path))
                except UNREADABLE as error:
                    unreadable[path] = first_line(error)
    table = pa.concat_tables(tables) if tables else SCHEMA.empty_table()
    return Reading(table, unreadable)


def row_files(root: Path) -> list[Path]:
    """Files of rows of a results folder, in the order in which they are read.

    Raises:
        UserError: there is no such folder.
    """
    if not root.is_dir():
        raise UserError(f"no results folder '{root}'. Make one with: lgbench run --results {root}")
    return sorted((root / "rows").rglob("*.parquet"))


def frame(reading: Reading, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Rows as a data frame: lists as arrays, maps as dictionaries, one for all rows of a file that are equal.

    Args:
        reading: what `read` gives.
        columns: which ones; all if None.
    """
    import pandas as pd  # readers of tables alone do without

    table = reading.table if columns is None else reading.table.select(list(columns))
    maps = [f.name for f in table.schema if pa.types.is_map(f.type)]
    rows: pd.DataFrame = table.drop_columns(maps).to_pandas()
    for name in maps:
        found = [values for chunk in table[name].chunks for values in dictionaries(chunk)]
        rows.insert(table.schema.get_field_index(name), name, pd.Series(found, dtype=object))
    return rows


def read_known(manifest: Manifest, path: Path) -> pa.Table:
    """Rows of a file; it is verified to the last value unless the manifest says that it was.

    Raises:
        OSError, ValueError, pyarrow.ArrowException: see `lgbench.store.rows_file.read_rows`.
    """
    known = manifest.known(path)
    table = read_rows(path, known=known is not None)
    if known is None:
        manifest.add(path, set(table["status"].to_pylist()), unfinished(table))
    return table


def dictionaries(chunk: pa.MapArray) -> list[dict[str, Any] | None]:
    """The maps of one file; a single one where all its rows have the same."""
    if len(chunk) > 1 and chunk[1:].equals(chunk[:-1]):
        return dictionaries(chunk[:1]) * len(chunk)
    names, items = chunk.keys.to_pylist(), chunk.items
    if pa.types.is_list(items.type) and pa.types.is_floating(items.type.value_type):
        numbers, edges = items.values.to_numpy(zero_copy_only=False), items.offsets.to_numpy()
        values = [numbers[start:stop] for start, stop in pairwise(edges)]
    else:
        values = items.to_pylist()
    return [
        dict(zip(names[start:stop], values[start:stop], strict=True)) if valid else None
        for (start, stop), valid in zip(
            pairwise(chunk.offsets.to_numpy()), chunk.is_valid().to_pylist(), strict=True
        )
    ]
