"""The results folder: one documented schema, one parquet file a cell, nothing half-written."""

from lgbench.store.files import atomic_file
from lgbench.store.schema import SCHEMA, SCHEMA_VERSION
from lgbench.store.store import Reading, Store, read

__all__ = ["SCHEMA", "SCHEMA_VERSION", "Reading", "Store", "atomic_file", "read"]
