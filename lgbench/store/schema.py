"""The columns of every row, with type, unit and meaning."""

from __future__ import annotations

import pyarrow as pa

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
