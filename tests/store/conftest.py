"""Rows for tests of the store, and files of older schemas made from the texts in `schemas/`."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lgbench.store import SCHEMA

SCHEMAS = Path(__file__).parent / "schemas"
TYPES = {str(kind): kind for kind in (pa.string(), pa.int32(), pa.int64(), pa.float64(), pa.bool_())}
TYPES["list<float>"] = pa.list_(pa.float32())


@pytest.fixture(scope="session")
def row():
    """`row(**changes)` is a complete row; columns that are not given are null."""

    def make(**changes):
        return dict.fromkeys(SCHEMA.names) | {"cell": "cell", "status": "ok", "value": 0.5} | changes

    return make


@pytest.fixture
def old_file(tmp_path):
    """`old_file(name, change)` writes a file of `schemas/NAME.json`; returns its path and its rows.

    `change(columns, rows)` may alter them first.
    """

    def write(name, change=lambda columns, rows: None, root=tmp_path):
        found = json.loads((SCHEMAS / f"{name}.json").read_text())
        change(found["columns"], found["rows"])
        schema = pa.schema(
            [(column, TYPES[kind]) for column, kind in found["columns"].items()],
            metadata={"lgbench_schema_version": str(found["schema_version"])},
        )
        path = root / "rows" / "task" / f"{found['rows'][0]['cell']}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(found["rows"], schema), path, compression="zstd")
        return path, found["rows"]

    return write
