"""Keep rows of many files in few: a cache, so that readers of ten thousand cells need not open as many.

    RESULTS/cache/HASH.arrow    all rows of up to 512 files, sealed, with name, size and time of each file

It is never the truth. The rows of a file count only while its size and time are those in the pack; a pack
that is torn, damaged or of another format is removed, and its files are read again. Strings, maps and lists
that many rows share are kept once. A pack is never changed: whoever finds files that are in none writes one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from lgbench.errors import CannotWrite
from lgbench.store.digest import array_digest
from lgbench.store.files import atomic_file
from lgbench.store.schema import SCHEMA, SCHEMA_VERSION
from lgbench.store.seal import BLANK, is_sealed, seal

FORMAT = f"1, schema {SCHEMA_VERSION}"
WORTH, FULL = 64, 512
"""Files that are worth a pack, and that a pack holds at most."""
_FILES, _FORMAT, _SEAL = b"lgbench_files", b"lgbench_format", b"lgbench_seal"


class Stamp(NamedTuple):
    """What a file was when its rows were read."""

    size: int
    mtime_ns: int


def stamp(path: Path) -> Stamp:
    """What a file is now.

    Raises:
        OSError: there is no such file.
    """
    found = path.stat()
    return Stamp(found.st_size, found.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class Pack:
    """Rows of some files.

    Attributes:
        table: columns as in the schema; what many rows share is of a dictionary type.
        places: name of a file, as TASK/CELL.parquet → its first row, and the one after its last.
    """

    table: pa.Table
    places: Mapping[str, tuple[int, int]]


def name_of(path: Path) -> str:
    """What a pack calls a file of rows."""
    return f"{path.parent.name}/{path.name}"


def pack(tables: Sequence[tuple[str, pa.Table]]) -> Pack:
    """Put the rows of files, given by their names, into one table."""
    places, start = {}, 0
    for name, table in tables:
        places[name] = (start, start + table.num_rows)
        start += table.num_rows
    columns = []
    for field in SCHEMA:
        parts = [part for _, table in tables for part in table[field.name].chunks]
        columns.append(_shared(parts, field.type) if _is_nested(field) else pa.concat_arrays(parts))
    columns = [
        column.dictionary_encode() if pa.types.is_string(column.type) else column for column in columns
    ]
    return Pack(pa.table(columns, names=SCHEMA.names), places)


def write_pack(root: Path, tables: Mapping[str, tuple[Stamp, pa.Table]]) -> None:
    """Write a pack of files; a folder that cannot be written stays without.

    Args:
        root: the results folder.
        tables: name of a file → what it was when it was read, and its rows.
    """
    made = pack([(name, table) for name, (_, table) in tables.items()])
    files = {name: [*tables[name][0], *made.places[name]] for name in tables}
    text = json.dumps(files, separators=(",", ":"))
    path = root / "cache" / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.arrow"
    table = made.table.replace_schema_metadata({_FILES: text, _FORMAT: FORMAT, _SEAL: BLANK})
    with contextlib.suppress(CannotWrite), atomic_file(path) as temporary:
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        seal(temporary)


def read_packs(root: Path, stamps: Mapping[str, Stamp]) -> list[Pack]:
    """Packs with rows of files as these are now, no file in two packs.

    A pack that is damaged, or of use for less than half of its files, is removed.

    Args:
        root: the results folder.
        stamps: name of a file → what it is now.
    """
    found: list[Pack] = []
    wanted = set(stamps)
    for path in sorted((root / "cache").glob("*.arrow")):
        with contextlib.suppress(OSError):
            read, num_files = _read(path, stamps, wanted)
            if 2 * len(read.places) < num_files or not num_files:
                path.unlink()
                continue
            found.append(read)
            wanted -= set(read.places)
    return found


def _read(path: Path, stamps: Mapping[str, Stamp], wanted: set[str]) -> tuple[Pack, int]:
    """The rows of a pack that are of use, and how many files it was made of: 0 if it is damaged."""
    nothing = Pack(SCHEMA.empty_table(), {})
    with open(path, "rb") as file:
        try:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            if not is_sealed(content):
                return nothing, 0
            table = pa.ipc.open_file(pa.py_buffer(content)).read_all()
        except (ValueError, pa.ArrowException):
            return nothing, 0
    metadata = table.schema.metadata or {}
    if metadata.get(_FORMAT, b"").decode() != FORMAT or table.column_names != SCHEMA.names:
        return nothing, 0
    files = json.loads(metadata[_FILES])
    places = {
        name: (start, stop)
        for name, (size, mtime_ns, start, stop) in files.items()
        if name in wanted and stamps[name] == (size, mtime_ns)
    }
    return Pack(table, places), len(files)


def _is_nested(field: pa.Field) -> bool:
    """Whether values are maps or lists that many rows share; what was measured of each item is not shared."""
    return bool(pa.types.is_nested(field.type)) and field.name != "item_values"


def _shared(parts: Sequence[pa.Array], kind: pa.DataType) -> pa.DictionaryArray:
    """Rows of files as a dictionary: equal ones are kept once."""
    codes: dict[str, int] = {}
    indices: list[int | None] = []
    values: list[pa.Array] = []
    for part in parts:
        if part.null_count == len(part):
            indices += [None] * len(part)
            continue
        alike = len(part) > 1 and part[1:].equals(part[:-1])
        rows = [part[:1]] if alike else [part[k : k + 1] for k in range(len(part))]
        found: list[int | None] = []
        for row in rows:
            if row.null_count:
                found.append(None)
                continue
            key = array_digest(row)
            if key not in codes:
                codes[key] = len(values)
                values.append(row)
            found.append(codes[key])
        indices += found * len(part) if alike else found
    kept = pa.concat_arrays(values) if values else pa.array([], kind)
    return pa.DictionaryArray.from_arrays(pa.array(indices, pa.int32()), kept)
