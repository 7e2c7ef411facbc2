"""Read columns of results folders as a data frame: from the cache what it has, from the files the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lgbench.store.manifest import Manifest
from lgbench.store.pack import FULL, WORTH, Pack, Stamp, name_of, pack, read_packs, stamp, write_pack
from lgbench.store.rows_file import UNREADABLE, first_line
from lgbench.store.schema import SCHEMA
from lgbench.store.store import dictionaries, read_known, row_files

if TYPE_CHECKING:
    import pandas as pd


@dataclass
class Scan:
    """Rows of some results folders, in the order of their files, and what could not be read.

    Attributes:
        rows: the columns that were asked for. Lists are arrays and maps are dictionaries, one for all rows
            in which they are equal; strings, lists and maps may be None, numbers NaN.
        unreadable: path → reason.
    """

    rows: pd.DataFrame
    unreadable: dict[Path, str] = field(default_factory=dict)


def scan(roots: Sequence[Path], columns: Sequence[str] | None = None) -> Scan:
    """Rows of all readable files under `RESULTS/rows`; an unreadable one is named, skipped and left alone.

    A file is opened only if its rows are not in the cache, or if its size or time is another one than there.

    Args:
        roots: results folders.
        columns: of the schema; all if None.

    Raises:
        UserError: a folder does not exist.
    """
    import pandas as pd  # readers of tables alone do without

    names = SCHEMA.names if columns is None else list(columns)
    unreadable: dict[Path, str] = {}
    packs, order, start = [], [np.zeros(0, np.int64)], 0
    for root in roots:
        paths = row_files(Path(root))
        found = _packs(Path(root), paths, unreadable)
        at = {}
        for one in found:
            at |= {name: (start + low, start + high) for name, (low, high) in one.places.items()}
            start += one.table.num_rows
        packs += found
        order += [np.arange(*at[name]) for path in paths if (name := name_of(path)) in at]
    chosen = np.concatenate(order)
    rows = {name: _column(packs, name)[chosen] for name in names}
    return Scan(
        pd.DataFrame({n: pd.Series(v, dtype=v.dtype) for n, v in rows.items()}, copy=False), unreadable
    )


def _packs(root: Path, paths: Sequence[Path], unreadable: dict[Path, str]) -> list[Pack]:
    """Rows of files: from the cache what it has, and others read now; the cache gets what is worth it."""
    stamps: dict[str, Stamp] = {}
    for path in paths:
        try:
            stamps[name_of(path)] = stamp(path)
        except OSError as error:
            unreadable[path] = first_line(error)
    packs = read_packs(root, stamps)
    known = {name for one in packs for name in one.places}
    others = [path for path in paths if name_of(path) in stamps and name_of(path) not in known]
    with Manifest(root) as manifest:
        for start in range(0, len(others), FULL):
            tables = {}
            for path in others[start : start + FULL]:
                try:
                    tables[name_of(path)] = stamps[name_of(path)], read_known(manifest, path)
                except UNREADABLE as error:
                    unreadable[path] = first_line(error)
            if len(tables) >= WORTH:
                write_pack(root, tables)
            if tables:
                packs.append(pack([(name, table) for name, (_, table) in tables.items()]))
    return packs


def _column(packs: Sequence[Pack], name: str) -> NDArray[Any]:
    """A column of all packs as one array."""
    parts = [_values(chunk) for one in packs for chunk in one.table[name].chunks]
    return np.concatenate(parts) if parts else _values(pa.array([], SCHEMA.field(name).type))


def _values(column: pa.Array) -> NDArray[Any]:
    """Values as a data frame keeps them."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        values = np.append(_values(column.dictionary), np.array([None]))
        return values[column.indices.fill_null(len(values) - 1).to_numpy()]
    if pa.types.is_map(kind):
        return _objects(dictionaries(column))
    if pa.types.is_list(kind):
        flat, edges = column.values.to_numpy(zero_copy_only=False), column.offsets.to_numpy()
        items = [flat[start:stop] for start, stop in pairwise(edges)]
        valid = column.is_valid().to_numpy(zero_copy_only=False)
        return _objects([item if is_there else None for item, is_there in zip(items, valid, strict=True)])
    if pa.types.is_string(kind):
        return _objects(column.to_pylist())
    return column.to_numpy(zero_copy_only=False)


def _objects(values: Sequence[Any]) -> NDArray[np.object_]:
    found = np.empty(len(values), dtype=object)
    found[:] = values
    return found
