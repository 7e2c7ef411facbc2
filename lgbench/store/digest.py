"""Hash what a table says: names, types and values, however it is cut into chunks and encoded in a file."""

from __future__ import annotations

import hashlib
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def content_digest(table: pa.Table) -> str:
    """SHA-256 of the decoded content, hex. Equal for equal columns in equal order; metadata do not count."""
    digest = hashlib.sha256()
    for name, column in zip(table.schema.names, table.columns, strict=True):
        digest.update(f"\n{name} {_kind(column.type)} ".encode())
        _add(digest, column.combine_chunks())
    return digest.hexdigest()


def array_digest(values: pa.Array) -> str:
    """SHA-256 of the decoded content of one column, hex."""
    digest = hashlib.sha256()
    _add(digest, values)
    return digest.hexdigest()


@cache
def _kind(kind: pa.DataType) -> str:
    """A type without the names of its inner fields, which parquet changes."""
    if pa.types.is_map(kind):
        return f"map<{_kind(kind.key_type)}, {_kind(kind.item_type)}>"
    return f"list<{_kind(kind.value_type)}>" if pa.types.is_list(kind) else str(kind)


def _add(digest: Any, values: pa.Array) -> None:
    digest.update(b"%d %d " % (len(values), values.null_count))
    if values.null_count == len(values):
        return
    kind = values.type
    if values.null_count:
        digest.update(np.packbits(values.is_valid().to_numpy(zero_copy_only=False)).tobytes())
        if not pa.types.is_nested(kind):
            values = values.fill_null("" if pa.types.is_string(kind) else pa.scalar(0).cast(kind))
    if pa.types.is_map(kind):
        entry = pa.struct([pa.field("key", kind.key_type), pa.field("value", kind.item_type)])
        values = values.cast(pa.list_(entry))
    if pa.types.is_list(values.type):
        digest.update(_bytes(pc.list_value_length(values).fill_null(0)))
        inner = values.flatten()
        for part in inner.flatten() if pa.types.is_struct(inner.type) else (inner,):
            _add(digest, part)
    elif pa.types.is_string(kind):
        digest.update(_bytes(pc.binary_length(values)))
        _, offsets, letters = values.buffers()
        ends = np.frombuffer(offsets, np.int32)[values.offset :]
        if letters is not None:
            digest.update(memoryview(letters)[ends[0] : ends[len(values)]])
    else:
        digest.update(_bytes(values))


def _bytes(values: pa.Array) -> bytes:
    return bytes(values.to_numpy(zero_copy_only=False).tobytes())
