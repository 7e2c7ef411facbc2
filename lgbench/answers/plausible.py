"""Whether the rows of one cell can have been measured: numbers that agree, and a provenance that could be."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from lgbench.stats.rows import find_faults
from lgbench.store import frame, from_texts
from lgbench.store.rows_file import unfinished
from lgbench.store.store import Reading

NEEDED = (
    "training", "task", "task_params", "data_source", "data_fingerprint", "method", "method_params", "label",
    "backbone", "preset", "recipe", "seed", "train_length", "train_steps", "step", "axis", "eval_length",
    "num_queries", "metric", "higher_is_better", "best", "chance", "combine", "value", "num_items",
    "item_values", "items_hash", "device", "scan_backend", "environment", "package_version", "created_at",
    "weights_digest", "task_identity", "method_identity", "backbone_identity",
)  # fmt: skip
"""Columns that no measured row leaves out."""
NOT_NEGATIVE = (
    "train_wall_s", "eval_wall_s", "calibration_wall_s", "train_tokens_per_s", "eval_tokens_per_s",
    "warm_tokens_per_s", "peak_bytes", "state_bytes", "num_parameters", "calibration_tokens", "num_fitted",
    "context_tokens", "std", "step", "seed",
)  # fmt: skip
"""Columns that are null, or a finite number from 0 on."""
FIRST_DAY = datetime(2025, 1, 1, tzinfo=UTC)
"""No cell was measured earlier."""
CLOCK_SLACK = timedelta(days=1)
"""By which a machine's clock may be ahead."""
_RTOL = 1e-4
"""Rounding of a mean of float32 items."""
_HEX = {"cell": 16, "training": 16, "weights_digest": 64}
_VERSION = re.compile(r"\d+(\.\d+)+([a-z0-9.+-]*)?")
_COMMIT = re.compile(r"([0-9a-f]{7,40}\+?)?")


def problems(table: pa.Table, environments: Mapping[str, str], now: datetime) -> Iterator[str]:
    """What speaks against the rows of one cell, a sentence each.

    Args:
        table: its rows, of today's schema.
        environments: name → text of those that came with them.
        now: the time.
    """
    if reason := unfinished(table):
        yield f"its grid is not complete: {reason}"
    rows = frame(Reading(table))
    if not (rows["status"] == "ok").any():
        yield f"it has no measured row ({rows['status'].iloc[0]})"
        return
    ok = rows[rows["status"] == "ok"]
    if missing := [name for name in NEEDED if ok[name].isna().any()]:
        yield f"null in {', '.join(missing)}"
        return
    yield from _numbers(ok)
    yield from _provenance(ok, environments, now)


def _numbers(rows: pd.DataFrame) -> Iterator[str]:
    """Whether the numbers of a row agree with one another and with its recipe."""
    places = ["metric", "axis", "step", "eval_length", "num_queries"]
    if rows.duplicated(places).any():
        yield "two rows claim the same measurement"
    faults = find_faults(rows)
    yield from sorted({f"{fault}" for fault in faults if fault})
    for row in rows.to_dict("records"):
        items, where = np.asarray(row["item_values"], dtype=float), f"{row['metric']} at {row['eval_length']}"
        if len(items) != row["num_items"]:
            yield f"{where}: {len(items)} items, num_items says {row['num_items']}"
            return
        mean = np.exp(items.mean()) if row["combine"] == "exp_mean" else items.mean()
        if not np.isclose(mean, row["value"], rtol=_RTOL, atol=_RTOL):
            yield f"{where}: the mean of its items is {mean:.6g}, its value {row['value']:.6g}"
            return
        slack = _RTOL * max(1.0, abs(row["value"]))
        if not row["ci_low"] - slack <= row["value"] <= row["ci_high"] + slack:
            yield f"{where}: its value is not within its own interval"
            return
    yield from _recipe(rows.iloc[0])


def _recipe(row: pd.Series) -> Iterator[str]:
    """Whether columns say what the recipe says."""
    try:
        recipe = from_texts(row["recipe"])
    except ValueError:
        yield "its recipe is no JSON"
        return
    for name in ("train_length", "train_steps", "batch_size", "learning_rate", "d_model", "num_layers"):
        if recipe.get(name) != row[name]:
            yield f"{name} is {row[name]}, its recipe says {recipe.get(name)}"
    if not 0 <= row["step"] <= row["train_steps"]:
        yield f"step {row['step']} of a training of {row['train_steps']} steps"


def _provenance(rows: pd.DataFrame, environments: Mapping[str, str], now: datetime) -> Iterator[str]:
    for name in NOT_NEGATIVE:
        known = rows[name].dropna().astype(float)
        if not (np.isfinite(known) & (known >= 0)).all():
            yield f"{name} is {known[~(np.isfinite(known) & (known >= 0))].iloc[0]:g}"
    for name, size in _HEX.items():
        if not rows[name].str.fullmatch(rf"[0-9a-f]{{{size}}}").all():
            yield f"{name} is no hash of {size} digits: {rows[name].iloc[0]!r:.40}"
    if (
        rows[["training", "weights_digest", "created_at", "environment", "seed"]].drop_duplicates().shape[0]
        > 1
    ):
        yield "its rows differ in training, weights, time, environment or seed"
    row = rows.iloc[0]
    if row["train_steps"] > 0 and not float(row["train_wall_s"] or 0) > 0:
        yield f"{row['train_steps']} training steps took no time"
    if not row["device"].strip() or not row["scan_backend"].strip():
        yield "it names no device, or no implementation of its scan"
    if not _VERSION.fullmatch(row["package_version"]):
        yield f"package_version is no version: {row['package_version']!r:.40}"
    if not _COMMIT.fullmatch(row["commit"] or ""):
        yield f"commit is no hash: {row['commit']!r:.40}"
    yield from _time(row["created_at"], now)
    yield from _environment(row, environments)


def _time(text: str, now: datetime) -> Iterator[str]:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        yield f"created_at is no ISO 8601 time: {text!r:.40}"
        return
    if moment.utcoffset() is None:
        yield f"created_at has no time zone: {text}"
    elif not FIRST_DAY <= moment <= now + CLOCK_SLACK:
        yield f"created_at is {text}, expected a time from {FIRST_DAY.date()} to now"


def _environment(row: pd.Series, environments: Mapping[str, str]) -> Iterator[str]:
    """Whether versions and hardware came along, unchanged, and are those of the row."""
    text = environments.get(row["environment"])
    if text is None:
        yield f"its environment {row['environment']!r:.40} did not come with it"
        return
    if hashlib.sha256(text.rstrip("\n").encode()).hexdigest()[:12] != row["environment"]:
        yield f"its environment {row['environment']} is damaged: its name is not its hash"
        return
    try:
        facts: dict[str, Any] = json.loads(text)
        torch_version = facts["packages"]["torch"]
    except (ValueError, KeyError, TypeError, RecursionError):
        yield f"its environment {row['environment']} does not say which torch it had"
        return
    if facts.get("lgbench") != row["package_version"]:
        yield f"package_version is {row['package_version']}, its environment says {facts.get('lgbench')}"
    if not _VERSION.fullmatch(str(torch_version)):
        yield f"its environment names no version of torch: {torch_version!r:.40}"
    device = facts.get("gpu") if facts.get("device") == "cuda" else facts.get("device")
    if device != row["device"]:
        yield f"device is {row['device']}, its environment says {device}"
