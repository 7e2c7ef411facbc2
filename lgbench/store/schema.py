"""The columns of every row, with type, unit and meaning.

What has parts is a list or a map. Parameters are maps from a name to its value as JSON text, since their
types differ: `{"low": "512", "protocol": "\"clean\""}`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from lgbench.recipe import Group, Recipe, column_value, columns

SCHEMA_VERSION = 3

STATUSES = ("ok", "diverged", "out_of_memory", "failed", "skipped")
"""Every status that a row may have."""

TRIED_AGAIN = ("failed", "out_of_memory")
"""Statuses that may pass: the next run measures their cells again."""

_PARAMS = pa.map_(pa.string(), pa.string())

Column = tuple[str, pa.DataType, str]


def _of_recipe(group: Group) -> list[Column]:
    """Columns that fields of the recipe ask for."""
    asked = columns(Recipe, group)
    return [(name, pa.type_for_alias(said.column), said.says) for name, said in asked.items()]


_COLUMNS: tuple[Column, ...] = (
    ("cell", pa.string(), "hash of everything that decides the result"),
    (
        "training",
        pa.string(),
        "hash of everything that decides the trained weights; shared by methods that train alike",
    ),
    ("status", pa.string(), "ok, diverged, out_of_memory, failed or skipped; only ok rows have a value"),
    ("reason", pa.string(), "why the status is not ok; empty otherwise"),
    ("task", pa.string(), "name of the task"),
    ("task_params", _PARAMS, "resolved parameters of the task, those that choose the data aside"),
    (
        "task_identity",
        pa.string(),
        "what stands for the task's code: version of a built-in plugin, hash of another one's source; "
        "null in older rows",
    ),
    ("horizon", pa.float64(), "multiple of L_train up to which the task's long score counts"),
    ("learned", pa.float64(), "normalised score at L_train above which a model has learned the task"),
    ("context_means", pa.string(), "what more context means there: denser, longer or more candidates"),
    ("data_source", pa.string(), "where the items come from, e.g. omniglot, omniglot-small, procedural"),
    ("data_fingerprint", pa.string(), "hash of the data and its split"),
    (
        "notice",
        pa.string(),
        "what a reader must know about the data, e.g. that they are procedural; empty otherwise",
    ),
    ("method", pa.string(), "name of the method"),
    ("method_params", _PARAMS, "resolved parameters of the method"),
    ("method_identity", pa.string(), "what stands for the method's code, as for the task"),
    ("label", pa.string(), "method with the parameters that differ from their defaults, for legends"),
    ("backbone", pa.string(), "name of the backbone"),
    ("backbone_params", _PARAMS, "resolved parameters of the backbone, its own sizes"),
    ("backbone_identity", pa.string(), "what stands for the backbone's code, as for the task"),
    ("preset", pa.string(), "name of the preset that the numbers started from"),
    ("recipe", _PARAMS, "all numbers of size, training and evaluation, resolved"),
    *_of_recipe("sizes"),
    ("d_state", pa.int32(), "state size per channel; 0 for a transformer"),
    ("num_parameters", pa.int64(), "trained parameters, input and output layers included"),
    (
        "weights_digest",
        pa.string(),
        "sha256 of the tensors of the weights file that was evaluated; null in older rows",
    ),
    ("seed", pa.int32(), "seed of initialisation and training"),
    *_of_recipe("training"),
    ("train_low", pa.int64(), "smallest context in training, in length_unit"),
    ("train_high", pa.int64(), "largest context in training, in length_unit"),
    ("length_unit", pa.string(), "what lengths count: tokens, or documents"),
    ("step", pa.int64(), "optimiser steps after which this was measured"),
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
        "context length that the method assumes or was fitted for, in length_unit; null if it assumes none",
    ),
    ("num_fitted", pa.int64(), "scalars fitted to calibration data for this length; 0 without calibration"),
    ("calibration_tokens", pa.int64(), "tokens of these data, queries included"),
    ("calibration_wall_s", pa.float64(), "seconds of that calibration, paid once and shared by equal ones"),
    (
        "kept_tokens",
        pa.list_(pa.int64()),
        "tokens that each layer processed, queries included; null for methods that drop none",
    ),
    ("state_bytes", pa.int64(), "bytes of the state carried after the context; null where not measured"),
    ("metric", pa.string(), "name of the metric; the headline of a cell comes first"),
    ("higher_is_better", pa.bool_(), "direction of the metric"),
    ("best", pa.float64(), "best possible value"),
    ("chance", pa.float64(), "value of the best answer that ignores the context, on these items and queries"),
    ("references", pa.map_(pa.string(), pa.float64()), "all such reference values by name"),
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
        pa.map_(pa.string(), pa.list_(pa.float64())),
        "numbers that the task keeps of each item, e.g. its needle's depth: lists by name",
    ),
    (
        "item_texts",
        pa.map_(pa.string(), pa.list_(pa.string())),
        "words that the task keeps of each item, e.g. the name of its question: lists by name",
    ),
    (
        "item_clusters",
        pa.list_(pa.string()),
        "what each item belongs to (character, book, article); null where items are independent",
    ),
    *_of_recipe("evaluation"),
    (
        "calibration_format",
        pa.int32(),
        "how calibration items were drawn; 0 where nothing is fitted, null in rows older than the column",
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


def recipe_columns(recipe: Recipe) -> dict[str, Any]:
    """What the columns say that fields of a recipe ask for."""
    return {name: column_value(getattr(recipe, name)) for name in columns(type(recipe))}


def as_texts(values: Mapping[str, Any]) -> dict[str, str]:
    """Values as a column of parameters keeps them: each as JSON text, in the order of their names."""
    return {name: json.dumps(values[name], sort_keys=True, separators=(",", ":")) for name in sorted(values)}


def from_texts(texts: Mapping[str, str] | None) -> dict[str, Any]:
    """The values of a column of parameters; none where it is null.

    Raises:
        ValueError: a value is no JSON.
    """
    return {name: json.loads(text) for name, text in (texts or {}).items()}


def split_facts(
    facts: Mapping[str, list[Any]],
) -> tuple[dict[str, list[float]] | None, dict[str, list[str]] | None]:
    """Facts of items that are numbers, and all others as words; None for no such."""
    numbers: dict[str, list[float]] = {}
    words: dict[str, list[str]] = {}
    for name, values in facts.items():
        if all(isinstance(value, (bool, int, float)) for value in values):
            numbers[name] = [float(value) for value in values]
        else:
            words[name] = [value if isinstance(value, str) else json.dumps(value) for value in values]
    return numbers or None, words or None
