"""Keep every measurement: one parquet file a finished cell, one documented schema, nothing half-written.

    RESULTS/rows/TASK/CELL.parquet          the rows of one cell
    RESULTS/environments/HASH.json          versions and hardware, once a run, referred to by rows
    RESULTS/checkpoints/TRAINING/           trained weights (see `lgbench.checkpoint`), not needed by any
    reader

Readers (report, leaderboard) need this module alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lgbench.errors import CannotWrite, UserError

SCHEMA_VERSION = 2

_COLUMNS: tuple[tuple[str, pa.DataType, str], ...] = (
    ("cell", pa.string(), "hash of everything that decides the result"),
    (
        "training",
        pa.string(),
        "hash of everything that decides the trained weights; shared by methods that train alike",
    ),
    ("status", pa.string(), "ok, diverged, out_of_memory, failed or skipped; only ok rows have a value"),
    ("reason", pa.string(), "why the status is not ok; empty otherwise"),
    ("task", pa.string(), "name of the task"),
    ("task_params", pa.string(), "resolved parameters of the task, those that choose the data aside, JSON"),
    ("data_source", pa.string(), "where the items come from, e.g. omniglot, omniglot-small, procedural"),
    ("data_fingerprint", pa.string(), "hash of the data and its split"),
    (
        "notice",
        pa.string(),
        "what a reader must know about the data, e.g. that they are procedural; empty otherwise",
    ),
    ("method", pa.string(), "name of the method"),
    ("method_params", pa.string(), "resolved parameters of the method, JSON"),
    ("label", pa.string(), "method with the parameters that differ from their defaults, for legends"),
    ("backbone", pa.string(), "name of the backbone"),
    ("preset", pa.string(), "name of the preset that the numbers started from"),
    ("recipe", pa.string(), "all numbers of size, training and evaluation, resolved, JSON"),
    ("d_model", pa.int32(), "width of the backbone"),
    ("num_layers", pa.int32(), "number of blocks"),
    ("d_state", pa.int32(), "state size per channel; 0 for a transformer"),
    ("num_parameters", pa.int64(), "trained parameters, input and output layers included"),
    ("seed", pa.int32(), "seed of initialisation and training"),
    (
        "train_length",
        pa.int64(),
        "nominal training length of the recipe, in length_unit; lengths are compared to it",
    ),
    ("train_low", pa.int64(), "smallest context in training, in length_unit; likewise train_high"),
    ("train_high", pa.int64(), "largest context in training"),
    ("length_unit", pa.string(), "what lengths count: tokens, or documents"),
    ("train_steps", pa.int64(), "optimiser steps of the whole training"),
    ("step", pa.int64(), "optimiser steps after which this was measured"),
    ("batch_size", pa.int32(), "sequences a training step"),
    ("lm_weight", pa.float64(), "weight of the next-token loss of all other tokens beside the answer's"),
    ("learning_rate", pa.float64(), "peak learning rate"),
    ("protocol", pa.string(), "clean, or as_released where a method follows the choices of published code"),
    ("needs_length", pa.bool_(), "whether the length of the context must be known before its first token"),
    ("apply_in_decode", pa.bool_(), "whether the method also acts on queries that follow a kept state"),
    (
        "axis",
        pa.string(),
        "what was varied: context (eval_length), queries (num_queries), or position (tokens up to "
        "eval_length from the next smaller one on)",
    ),
    ("eval_length", pa.int64(), "context of the evaluation, in length_unit"),
    ("context_tokens", pa.int64(), "tokens of that context, padding included"),
    ("num_queries", pa.int64(), "queries of the evaluation"),
    (
        "assumed_length",
        pa.int64(),
        "context length that the method was told or fitted for, in length_unit; null if it assumes none",
    ),
    ("num_fitted", pa.int64(), "scalars fitted to calibration data for this length; 0 without calibration"),
    ("calibration_tokens", pa.int64(), "tokens of these data, queries included"),
    ("calibration_wall_s", pa.float64(), "seconds of that calibration, paid once and shared by equal ones"),
    (
        "kept_tokens",
        pa.string(),
        "tokens that each layer processed, queries included, JSON list; empty for methods that drop none",
    ),
    ("metric", pa.string(), "name of the metric"),
    ("higher_is_better", pa.bool_(), "direction of the metric"),
    ("best", pa.float64(), "best possible value"),
    ("chance", pa.float64(), "value of the best answer that ignores the context, on these items and queries"),
    ("references", pa.string(), "all such reference values by name, JSON"),
    ("combine", pa.string(), "how values of items become one: mean, or exp_mean, the exponential of it"),
    ("value", pa.float64(), "the metric, combined over items"),
    (
        "ci_low",
        pa.float64(),
        "lower end of the 95 % interval over items: Wilson's of proportions, else bootstrap",
    ),
    ("ci_high", pa.float64(), "upper end of it"),
    ("std", pa.float64(), "standard deviation of item_values"),
    ("num_items", pa.int32(), "number of evaluation items"),
    (
        "item_values",
        pa.list_(pa.float32()),
        "the metric of each item, in the fixed order, for paired comparison",
    ),
    (
        "item_facts",
        pa.string(),
        "what the task keeps of each item, e.g. its needle's depth: lists by name, JSON",
    ),
    ("items_hash", pa.string(), "hash of the evaluation items; rows with equal hashes are paired"),
    ("shared_prefix", pa.bool_(), "measured in one pass for the whole grid of lengths"),
    ("scan_backend", pa.string(), "implementation of the selective scan, or of attention"),
    ("device", pa.string(), "name of the device"),
    ("train_scan_backend", pa.string(), "what made it in training"),
    ("train_loss", pa.float64(), "mean training loss over the last 100 steps before `step`"),
    (
        "train_wall_s",
        pa.float64(),
        "seconds of training up to `step`, interruptions excluded; of k side by side each bears 1/k",
    ),
    ("train_tokens_per_s", pa.float64(), "tokens per second in training, queries included"),
    ("eval_wall_s", pa.float64(), "seconds of the evaluation; of the whole grid where shared_prefix"),
    (
        "eval_tokens_per_s",
        pa.float64(),
        "tokens per second of that evaluation; tokens that a method leaves out count too",
    ),
    (
        "warm_tokens_per_s",
        pa.float64(),
        "the same without the first batch of items, which compiles kernels; null where there was one batch "
        "only",
    ),
    ("peak_bytes", pa.int64(), "peak device memory of the evaluation (CPU: peak of the process), bytes"),
    ("environment", pa.string(), "hash of environments/HASH.json"),
    ("package_version", pa.string(), "version of lgbench"),
    ("commit", pa.string(), "git commit of the checkout, with + if modified; empty where there is none"),
    ("created_at", pa.string(), "when the cell finished, ISO 8601, UTC"),
)

SCHEMA = pa.schema(
    [pa.field(name, kind, metadata={"doc": doc}) for name, kind, doc in _COLUMNS],
    metadata={"lgbench_schema_version": str(SCHEMA_VERSION)},
)


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

    def path(self, task: str, cell: str) -> Path:
        """File of a cell's rows."""
        return self.root / "rows" / task / f"{cell}.parquet"

    def check_writable(self) -> None:
        """Find out before hours of training whether anything can be written here; a UserError if not."""
        with atomic_file(self.root / ".writable"):
            pass
        (self.root / ".writable").unlink()

    def has(self, task: str, cell: str) -> bool:
        """Whether a cell is finished: its file is readable and no row of it asks to be tried again."""
        try:
            statuses = pq.read_table(self.path(task, cell), columns=["status"])["status"].to_pylist()
        except (OSError, pa.ArrowException):
            return False
        return bool(statuses) and not {"failed", "out_of_memory"} & set(statuses)

    def write(self, task: str, cell: str, rows: Sequence[Mapping[str, Any]]) -> Path:
        """Store the rows of one cell in one file, atomically; replaces an earlier file of the same cell.

        Raises:
            ValueError: a row lacks a column or has one that the schema does not know.
            UserError: the folder cannot be written or the disk is full; nothing half-written remains.
        """
        names = set(SCHEMA.names)
        for row in rows:
            if set(row) != names:
                raise ValueError(f"row and schema differ: {sorted(set(row) ^ names)}")
        table = pa.Table.from_pylist([dict(r) for r in rows], schema=SCHEMA)
        target = self.path(task, cell)
        with atomic_file(target) as temporary:
            pq.write_table(table, temporary, compression="zstd")
        return target

    def write_environment(self, facts: Mapping[str, Any]) -> str:
        """Keep versions and hardware once; returns their hash."""
        text = json.dumps(facts, indent=1, sort_keys=True)
        name = hashlib.sha256(text.encode()).hexdigest()[:12]
        target = self.root / "environments" / f"{name}.json"
        if not target.exists():
            with atomic_file(target) as temporary:
                temporary.write_text(text + "\n")
        return name


def read(roots: Sequence[Path]) -> Reading:
    """Rows of all readable files under `RESULTS/rows`; an unreadable one is named, skipped and left alone.

    Raises:
        UserError: a folder does not exist.
    """
    tables, unreadable = [], {}
    for root in roots:
        if not Path(root).is_dir():
            raise UserError(f"no results folder '{root}'. Make one with: lgbench run --results {root}")
        for path in sorted((Path(root) / "rows").rglob("*.parquet")):
            try:
                tables.append(_read_file(path))
            except (OSError, ValueError, pa.ArrowException) as error:
                unreadable[path] = str(error).splitlines()[0]
    table = pa.concat_tables(tables) if tables else SCHEMA.empty_table()
    return Reading(table, unreadable)


def _read_file(path: Path) -> pa.Table:
    table = pq.read_table(path)
    version = (table.schema.metadata or {}).get(b"lgbench_schema_version", b"none").decode()
    if version != str(SCHEMA_VERSION):
        raise ValueError(
            f"schema version {version}, this lgbench reads {SCHEMA_VERSION}; run its cell again with --force"
        )
    if missing := set(SCHEMA.names) - set(table.schema.names):
        raise ValueError(f"no column {', '.join(sorted(missing))}; run its cell again with --force")
    return table.select(SCHEMA.names).cast(SCHEMA)


@contextlib.contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """A temporary path in the target's folder that becomes the target if the block succeeds, and is gone if
    not.

    Raises:
        CannotWrite: the folder cannot be made or written, or the disk is full.
    """
    temporary = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        os.replace(temporary, target)
    except OSError as error:
        raise CannotWrite(
            f"cannot write {target}: {error.strerror or error}. Nothing half-written was left."
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
