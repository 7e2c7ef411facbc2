"""The results folder: one documented schema, one parquet file a cell, nothing half-written."""

from lgbench.store.files import atomic_file, put_aside
from lgbench.store.scan import Scan, scan
from lgbench.store.schema import SCHEMA, SCHEMA_VERSION, as_texts, from_texts
from lgbench.store.store import Reading, Store, frame, read

__all__ = [
    "SCHEMA", "SCHEMA_VERSION", "Reading", "Scan", "Store", "as_texts", "atomic_file", "frame", "from_texts",
    "put_aside", "read", "scan",
]  # fmt: skip
