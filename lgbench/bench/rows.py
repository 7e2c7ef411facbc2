"""What `lgbench bench` keeps: one row a case, part and contender, in parquet under one documented schema."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

import lgbench
from lgbench.run import provenance
from lgbench.store import atomic_file

SCHEMA_VERSION = 1
PEER_PACKAGES = ("mambapy", "transformers", "flash-linear-attention")

Row = dict[str, Any]

_COLUMNS: tuple[tuple[str, pa.DataType, str], ...] = (
    ("measure", pa.string(), "copy, scan, step, stream or curve"),
    ("case", pa.string(), "what was measured, in words; contenders of one case are comparable"),
    ("part", pa.string(), "of scan: forward or forward+backward; else empty"),
    ("contender", pa.string(), "back end or peer; of curve: shared or separate"),
    ("mode", pa.string(), "eager, or graph: replayed from a captured CUDA graph"),
    ("status", pa.string(), "ok, wrong (see relative_error), failed, out_of_memory, skipped or unavailable"),
    ("reason", pa.string(), "why the status is not ok; empty otherwise"),
    ("batch", pa.int64(), "sequences"),
    (
        "length",
        pa.int64(),
        "tokens of a sequence; of step, context and queries; of curve, the longest context",
    ),
    ("d_model", pa.int64(), "width of the residual stream"),
    ("d_inner", pa.int64(), "channels of the scan"),
    ("d_state", pa.int64(), "states of a channel"),
    ("num_layers", pa.int64(), "blocks"),
    ("dtype", pa.string(), "type of the inputs (scan) or of the matrix products (stream)"),
    ("num_seeds", pa.int64(), "of step: trainings side by side"),
    ("repeats", pa.int64(), "samples behind the median"),
    ("median_ms", pa.float64(), "milliseconds; of step, one seed's share of a step; of copy, one copy"),
    ("low_ms", pa.float64(), "lower quartile of the samples"),
    ("high_ms", pa.float64(), "upper quartile of the samples"),
    ("times_fastest", pa.float64(), "median_ms over that of the fastest ok row of the same case and part"),
    ("tokens_per_s", pa.float64(), "tokens that count for the task, per second"),
    ("bytes_moved", pa.int64(), "least memory traffic of the part: every input read and output written once"),
    ("copy_share", pa.float64(), "time of that traffic at copy_rate, as a share of median_ms"),
    (
        "floor_ms",
        pa.float64(),
        "time of that traffic at copy_rate; of stream, plus its matrix products alone",
    ),
    ("copy_rate", pa.float64(), "bytes per second that a large copy reads and writes, measured in this run"),
    (
        "peak_bytes",
        pa.int64(),
        "peak memory of the device, weights included; CPU: peak of the process so far",
    ),
    ("relative_error", pa.float64(), "‖got − float64‖ / ‖float64‖; of curve, of the scores to each other"),
    ("error_length", pa.int64(), "tokens after which relative_error was taken"),
    ("note", pa.string(), "what else a reader must know; mostly empty"),
    ("device", pa.string(), "name of the device"),
    ("versions", pa.string(), "Python, packages and CUDA, JSON"),
    ("num_threads", pa.int64(), "threads of torch on the CPU"),
    ("package_version", pa.string(), "version of lgbench"),
    ("commit", pa.string(), "git commit of the checkout, with + if modified; empty where there is none"),
    ("created_at", pa.string(), "when the run began, ISO 8601, UTC"),
)

SCHEMA = pa.schema(
    [pa.field(name, kind, metadata={"doc": doc}) for name, kind, doc in _COLUMNS],
    metadata={"lgbench_bench_schema_version": str(SCHEMA_VERSION)},
)


def row(**known: Any) -> Row:
    """A row with every column of the schema; what is not known is null.

    Raises:
        ValueError: a column that the schema does not have.
    """
    if unknown := set(known) - set(SCHEMA.names):
        raise ValueError(f"no such columns: {sorted(unknown)}")
    words = {"case": "", "part": "", "mode": "eager", "status": "ok", "reason": "", "note": ""}
    return dict.fromkeys(SCHEMA.names) | words | known


def timed(samples_ms: Sequence[float], share: float = 1.0) -> Row:
    """Median and quartiles of the samples, each times `share`."""
    low, median, high = (float(q) * share for q in np.percentile(samples_ms, [25, 50, 75]))
    return {"repeats": len(samples_ms), "median_ms": median, "low_ms": low, "high_ms": high}


def failure(error: Exception) -> Row:
    """Status and one-line reason of what a contender raised."""
    memory = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    text = f"{type(error).__name__}: {error}".strip().splitlines()[0]
    return {"status": "out_of_memory" if memory else "failed", "reason": text}


def traffic(bytes_moved: int, copy_rate: float, median_ms: float) -> Row:
    """Least traffic, its time at the copy rate, and that time as a share of the measured one."""
    floor_ms = bytes_moved / copy_rate * 1e3
    return {"bytes_moved": bytes_moved, "floor_ms": floor_ms, "copy_share": floor_ms / median_ms}


def checked(error: float, limit: float, length: int, against: str = "float64") -> Row:
    """The error of a contender, and the status that it deserves."""
    facts = {"relative_error": error, "error_length": length}
    if error <= limit:  # NaN is not
        return facts
    return facts | {
        "status": "wrong",
        "reason": f"relative error {error:.1e} against {against}, allowed {limit:.0e}",
    }


def rank(found: Sequence[Row]) -> list[Row]:
    """The rows with `times_fastest`, which only compares right results."""
    fastest: dict[tuple[str, str, str], float] = {}
    for one in found:
        if one["status"] == "ok" and one["median_ms"]:
            key = (one["measure"], one["case"], one["part"])
            fastest[key] = min(one["median_ms"], fastest.get(key, float("inf")))
    return [
        one | {"times_fastest": one["median_ms"] / fastest[one["measure"], one["case"], one["part"]]}
        if one["status"] == "ok" and one["median_ms"]
        else one
        for one in found
    ]


def facts(device: torch.device, copy_rate: float) -> Row:
    """The columns that all rows of a run share."""
    environment = provenance.environment(device)
    packages = environment["packages"] | {name: provenance.version(name) for name in PEER_PACKAGES}
    versions = {"python": environment["python"], "cuda": environment.get("cuda"), **packages}
    return {
        "device": provenance.device_name(device),
        "copy_rate": copy_rate,
        "versions": json.dumps(versions, sort_keys=True),
        "num_threads": torch.get_num_threads(),
        "package_version": lgbench.__version__,
        "commit": provenance.commit(),
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def write(found: Sequence[Row], shared: Mapping[str, Any], path: Path) -> None:
    """Store all rows in one file, atomically.

    Raises:
        UserError: the folder cannot be written or the disk is full.
    """
    table = pa.Table.from_pylist([{**one, **shared} for one in found], schema=SCHEMA)
    with atomic_file(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")
