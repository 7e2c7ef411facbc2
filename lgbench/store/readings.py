"""Keep what a probe read: scalars as rows, maps and curves as arrays beside them, both sealed.

    RESULTS/probes/TASK/CELL-PROBE-KEY.parquet        rows, columns as in `COLUMNS`
    RESULTS/probes/TASK/CELL-PROBE-KEY.safetensors    arrays; their digest is in the file of rows

KEY is a hash of what was asked for: probe, version, parameters, lengths, layers, items.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from lgbench.store.digest import content_digest
from lgbench.store.files import atomic_file
from lgbench.store.seal import BLANK, Damaged, is_sealed, seal

COLUMNS = pa.schema(
    [
        ("probe", pa.string()), ("reading", pa.string()), ("length", pa.int64()), ("layer", pa.int64()),
        ("group", pa.string()), ("seed", pa.int64()), ("value", pa.float64()),
    ]
)  # fmt: skip
"""One row a reading. Length in the task's unit, layers from 0; null where a reading has none."""

_FACTS, _ARRAYS, _CONTENT = "lgbench_facts", "lgbench_arrays_digest", "lgbench_content_digest"


class Reading(NamedTuple):
    """One number of a probe."""

    name: str
    value: float
    length: int | None = None
    layer: int | None = None
    group: str = ""
    """What else it belongs to: a factor, a quadrant, a share of the channels."""


@dataclass
class Readings:
    """What a probe read of one trained model."""

    rows: list[Reading]
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    """Of the cell and the measurement, pure JSON: probe, params, cell, task, label, seed, train_length, …"""

    def value(self, name: str, length: int | None = None, layer: int | None = None, group: str = "") -> float:
        """The one reading of that name and place.

        Raises:
            KeyError: there is none.
        """
        for row in self.rows:
            if (row.name, row.length, row.layer, row.group) == (name, length, layer, group):
                return row.value
        raise KeyError(f"no reading {name} at length {length}, layer {layer}, group {group!r}")

    def curve(self, name: str, layer: int | None = None, group: str = "") -> tuple[list[int], list[float]]:
        """Lengths and values of a reading, in the order of the lengths."""
        points = sorted(
            (row.length, row.value)
            for row in self.rows
            if row.length is not None and (row.name, row.layer, row.group) == (name, layer, group)
        )
        return [length for length, _ in points], [value for _, value in points]

    def layers(self) -> list[int]:
        """Layers that have readings."""
        return sorted({row.layer for row in self.rows if row.layer is not None})


def key_of(asked: Mapping[str, Any]) -> str:
    """8 hex digits that stand for what was asked for."""
    return hashlib.sha256(json.dumps(dict(asked), sort_keys=True).encode()).hexdigest()[:8]


def readings_path(root: Path, task: str, cell: str, probe: str, key: str) -> Path:
    """File of the rows; the arrays are beside it, under `.safetensors`."""
    return Path(root) / "probes" / task / f"{cell}-{probe}-{key}.parquet"


def write_readings(path: Path, readings: Readings) -> None:
    """Store rows and arrays atomically, the arrays first, so that rows never stand without them.

    Raises:
        ValueError: there is no row.
        UserError: the folder cannot be written or the disk is full.
    """
    if not readings.rows:
        raise ValueError(f"{path.name}: a probe must give at least one reading")
    content = {name: np.ascontiguousarray(values) for name, values in readings.arrays.items()}
    arrays = path.with_suffix(".safetensors")
    with atomic_file(arrays) as temporary:
        temporary.write_bytes(save_arrays(content, metadata={"seal": BLANK}))
        seal(temporary)
    facts = readings.facts
    table = pa.Table.from_pylist(
        [
            {
                "probe": facts.get("probe", ""), "reading": row.name, "length": row.length,
                "layer": row.layer, "group": row.group, "seed": facts.get("seed"), "value": row.value,
            }
            for row in readings.rows
        ],
        schema=COLUMNS,
    )  # fmt: skip
    with atomic_file(path) as temporary:
        with pq.ParquetWriter(temporary, COLUMNS, write_page_checksum=True) as writer:
            writer.write_table(table)
            writer.add_key_value_metadata(
                {
                    _FACTS: json.dumps(facts, sort_keys=True),
                    _ARRAYS: hashlib.sha256(arrays.read_bytes()).hexdigest(),
                    _CONTENT: content_digest(table),
                    "lgbench_seal": BLANK,
                }
            )
        seal(temporary)


def read_readings(path: Path, *, only_rows: bool = False) -> Readings:
    """What `write_readings` stored, verified; with `only_rows` without the arrays, which need not be there.

    Raises:
        OSError, ValueError, pyarrow.ArrowException: it cannot be read, or is not what was written.
    """
    content = path.read_bytes()
    if not is_sealed(content):
        raise Damaged("damaged: it has no checksum")
    file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
    known = {k.decode(): v.decode() for k, v in file.metadata.metadata.items() if k.startswith(b"lgbench")}
    table = file.read(use_threads=False)
    if content_digest(table) != known.get(_CONTENT):
        raise Damaged("damaged: the digest of its content is another one")
    rows = [
        Reading(row["reading"], row["value"], row["length"], row["layer"], row["group"])
        for row in table.to_pylist()
    ]
    if only_rows:
        return Readings(rows, {}, json.loads(known[_FACTS]))
    arrays = path.with_suffix(".safetensors").read_bytes()
    if hashlib.sha256(arrays).hexdigest() != known.get(_ARRAYS):
        raise Damaged("damaged: the arrays beside it are not those that were written with it")
    return Readings(rows, load_arrays(arrays), json.loads(known[_FACTS]))


def all_readings(roots: Sequence[Path]) -> dict[Path, Readings]:
    """All rows that probes have stored under these results folders; what is damaged is left out.

    With the arrays where they are there; published folders lack them.
    """
    found = {}
    for root in roots:
        for path in sorted((Path(root) / "probes").rglob("*.parquet")):
            try:
                found[path] = read_readings(path, only_rows=not path.with_suffix(".safetensors").exists())
            except (OSError, ValueError, pa.ArrowException):
                continue
    return found
