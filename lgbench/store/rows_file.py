"""One file of rows: how it is written, what is accepted when it is read, and when its cell is finished."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lgbench.recipe import columns
from lgbench.store.digest import content_digest
from lgbench.store.files import atomic_file
from lgbench.store.migrate import recipe_columns, upgrade
from lgbench.store.schema import SCHEMA, SCHEMA_VERSION, STATUSES, TRIED_AGAIN
from lgbench.store.seal import BLANK, Damaged, is_sealed, seal

UNREADABLE = (OSError, ValueError, TypeError, pa.ArrowException)
"""What reading a file of rows may raise."""

_VERSION, _CONTENT = b"lgbench_schema_version", b"lgbench_content_digest"
_FAST = {"compression": "lz4", "use_dictionary": False, "write_statistics": False}
"""Of files of some dozens of rows: read three times as fast as with pyarrow's defaults, and smaller."""
_FIRST_SEALED = 3
"""Schema version from which on files have checksums."""


def write_rows(path: Path, table: pa.Table, metadata: Mapping[str, str] = MappingProxyType({})) -> None:
    """Write rows of the current schema atomically, with checksums of pages, of the content and of the file.

    Args:
        path: the file.
        table: the rows.
        metadata: texts that the file holds besides.

    Raises:
        UserError: the folder cannot be written or the disk is full; nothing half-written remains.
    """
    facts: dict[str | bytes, str] = {_CONTENT: content_digest(table), "lgbench_seal": BLANK}
    facts.update(metadata)
    with atomic_file(path) as temporary:
        with pq.ParquetWriter(temporary, SCHEMA, write_page_checksum=True, **_FAST) as writer:
            writer.write_table(table)
            writer.add_key_value_metadata(facts)
        seal(temporary)


def read_rows(path: Path, known: bool = False) -> pa.Table:
    """The rows of a cell's file, whose name is the key of its cell; see `read_table`."""
    table = read_table(path, known)
    _check_bound(table, path.stem)
    return table


def read_table(path: Path, known: bool = False) -> pa.Table:
    """Rows of a file, of one cell or of several, in the current schema whatever the file's.

    Args:
        path: the file.
        known: skip the digest of the decoded content, because this file of this size and time had the right
            one before. Checksums of the file and its pages are verified in any case.

    Raises:
        OSError, ValueError, pyarrow.ArrowException: it cannot be read, was damaged, or is not a cell's.
    """
    content = path.read_bytes()
    sealed = is_sealed(content)
    file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
    version = _version(file)
    if sealed != (version >= _FIRST_SEALED):
        raise Damaged(f"damaged: schema version {version} {'with' if sealed else 'without'} a checksum")
    table = file.read(use_threads=False)
    if sealed and not known and content_digest(table) != file.metadata.metadata.get(_CONTENT, b"").decode():
        raise Damaged("damaged: the digest of its content is another one")
    return upgrade(table, version) if version < SCHEMA_VERSION else _of_schema(table)


def unfinished(table: pa.Table) -> str | None:
    """Why the cell of these rows has to be measured again; None if it is finished.

    It is finished when no row asks to be tried again and every length and number of queries of its recipe has
    a row of the headline metric, which comes first. The one row of a cell that was skipped or diverged in
    training stands for all.
    """
    statuses = set(table["status"].to_pylist())
    if again := statuses.intersection(TRIED_AGAIN):
        return f"it ended as {', '.join(sorted(again))}"
    if table.num_rows == 1 and statuses <= {"skipped", "diverged"}:
        return None
    recipe = dict(table["recipe"][0].as_py() or ())
    places = table.select(["metric", "axis", "eval_length", "num_queries"])
    headline = places.filter(pc.equal(table["metric"], table["metric"][0]))
    for axis, column, grid in (
        ("context", "eval_length", "eval_lengths"),
        ("queries", "num_queries", "query_grid"),
    ):
        try:
            wanted = list(json.loads(recipe.get(grid, "[]")))
        except (ValueError, TypeError, RecursionError):
            return f"its recipe has no {grid} that can be read"
        measured = headline.filter(pc.equal(headline["axis"], axis))[column].to_pylist()
        if missing := [point for point in wanted if point not in measured]:
            return f"no row for {column} {missing[0]}"
    return None


def schema_version(path: Path) -> int:
    """Schema version of a file of rows, of which nothing else is read.

    Raises:
        OSError, ValueError, pyarrow.ArrowException: it has none, or cannot be read.
    """
    with pq.ParquetFile(path) as file:
        return _version(file)


def first_line(error: Exception) -> str:
    """An exception in one line."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def _version(file: pq.ParquetFile) -> int:
    text = (file.schema_arrow.metadata or {}).get(_VERSION, b"none").decode()
    if text not in map(str, range(1, SCHEMA_VERSION + 1)):
        raise ValueError(
            f"schema version {text}, this lgbench reads 1 to {SCHEMA_VERSION}; update lgbench, or run its "
            "cell again with --force"
        )
    return int(text)


def _of_schema(table: pa.Table) -> pa.Table:
    if missing := set(SCHEMA.names) - set(table.schema.names) - columns().keys():
        raise ValueError(f"no column {', '.join(sorted(missing))}; run its cell again with --force")
    for name, column in recipe_columns(table["recipe"], set(table.schema.names)).items():
        table = table.append_column(name, column)
    table = table.select(SCHEMA.names)
    for found, wanted in zip(table.schema, SCHEMA, strict=True):
        if found.type != wanted.type:
            raise ValueError(f"column {found.name} is {found.type}, not {wanted.type}")
    return pa.Table.from_arrays(table.columns, schema=SCHEMA)


def _check_bound(table: pa.Table, cell: str) -> None:
    if table.num_rows == 0:
        raise ValueError("it has no rows")
    if others := set(table["cell"].to_pylist()) - {cell}:
        raise ValueError(f"its rows are of the cell {min(others, key=str)}, not of its name")
    if unknown := set(table["status"].to_pylist()).difference(STATUSES):
        raise ValueError(f"unknown status {min(map(str, unknown))}; known: {', '.join(STATUSES)}")
