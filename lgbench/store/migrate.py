"""Read rows of every schema that there was, as rows of today's.

- Version 1: before tasks of tokens. Early files lack what was added without a new number.
- Version 2: parameters, references and facts are JSON in strings.
- Version 3, today's: they are maps and lists, and files carry checksums.

Within a version, columns that fields of the recipe ask for may be missing: the recipe has the value.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from typing import Any

import pyarrow as pa

from lgbench.recipe import Recipe, column_value, columns
from lgbench.store.schema import SCHEMA, as_texts, from_texts, split_facts

_ADDED = {
    1: {
        "protocol", "needs_length", "apply_in_decode", "assumed_length", "num_fitted", "calibration_tokens",
        "calibration_wall_s", "kept_tokens", "recipe", "train_scan_backend",
    },
    2: {"warm_tokens_per_s"},
}  # fmt: skip
"""Columns that came during a version; null in files from before."""

_SINCE_2 = {"length_unit", "lm_weight", "context_tokens", "combine", "item_facts", "warm_tokens_per_s"}
_SINCE_3 = {
    "task_identity", "method_identity", "backbone_identity", "backbone_params", "horizon", "learned",
    "context_means", "weights_digest", "state_bytes", "item_texts", "item_clusters",
    "calibration_format",
}  # fmt: skip

_BACKBONE_SIZES = {"mamba": ("conv_width", "d_state", "init_std"), "mamba2": ("conv_width", "d_state")}
"""Sizes of the recipe that a backbone took for itself when it had no parameters of its own."""


def upgrade(table: pa.Table, version: int) -> pa.Table:
    """Rows of the current schema from those of an older one.

    Raises:
        ValueError: a column is missing or of another type, or a text is not the JSON that it should be.
    """
    expected = set(SCHEMA.names) - _SINCE_3 - (_SINCE_2 if version == 1 else set()) - columns().keys()
    if missing := expected - set(table.schema.names) - _ADDED[version]:
        raise ValueError(f"no column {', '.join(sorted(missing))}; run its cell again with --force")
    found: dict[str, Any] = {name: table[name] for name in table.schema.names}
    if version == 1:
        found |= _to_version_2(table)
    found |= _to_version_3(found, table.num_rows)
    found |= recipe_columns(found["recipe"], set(found))
    arrays = [
        found[field.name].cast(field.type) if field.name in found else pa.nulls(len(table), field.type)
        for field in SCHEMA
    ]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def recipe_columns(recipes: pa.Array, present: set[str], kind: type[Recipe] = Recipe) -> dict[str, pa.Array]:
    """Columns that fields of the recipe ask for and that a file is older than, from its recipe.

    Where this lacks a field, its default stands: what was done before there was the field.

    Args:
        recipes: the column `recipe`, equal in all rows, since a file is of one cell.
        present: columns that the file has.
        kind: of recipe.

    Raises:
        ValueError: a value of the recipe is no JSON.
    """
    asked = {name: said for name, said in columns(kind).items() if name not in present}
    if not asked:
        return {}
    values = from_texts(dict(recipes[0].as_py() or ())) if len(recipes) else {}
    defaults = {field.name: field.default for field in fields(kind) if field.default is not MISSING}
    return {
        name: pa.repeat(
            pa.scalar(column_value(values.get(name, defaults.get(name))), pa.type_for_alias(said.column)),
            len(recipes),
        )
        for name, said in asked.items()
    }


def _to_version_2(table: pa.Table) -> dict[str, Any]:
    """Every length counted tokens, every metric was a mean, and nothing was kept of items."""
    same = {"length_unit": "tokens", "lm_weight": 0.0, "combine": "mean", "item_facts": ""}
    return {name: pa.repeat(value, len(table)) for name, value in same.items()} | {
        "context_tokens": table["eval_length"]
    }


def _to_version_3(columns: Mapping[str, Any], num_rows: int) -> dict[str, Any]:
    def converted(name: str, source: str, convert: Callable[[Any], Any]) -> pa.Array:
        if source not in columns:
            return pa.nulls(num_rows, SCHEMA.field(name).type)
        made: dict[str | None, Any] = {}
        texts = columns[source].to_pylist()
        for text in set(texts):
            made[text] = convert(_parsed(text, source)) if text else None
        return pa.array([made[text] for text in texts], SCHEMA.field(name).type)

    sizes = [_BACKBONE_SIZES.get(name, ()) for name in columns["backbone"].to_pylist()]
    recipes = converted("recipe", "recipe", as_texts)
    known = [dict(found or ()) for found in recipes.to_pylist()]
    own = [{n: all_[n] for n in names if n in all_} for all_, names in zip(known, sizes, strict=True)]
    return {
        "recipe": recipes,
        "backbone_params": pa.array(own, SCHEMA.field("backbone_params").type),
        "task_params": converted("task_params", "task_params", as_texts),
        "method_params": converted("method_params", "method_params", as_texts),
        "references": converted("references", "references", lambda found: found),
        "kept_tokens": converted("kept_tokens", "kept_tokens", lambda found: found),
        "item_facts": converted("item_facts", "item_facts", lambda found: split_facts(found)[0]),
        "item_texts": converted("item_texts", "item_facts", lambda found: split_facts(found)[1]),
    }


def _parsed(text: str, column: str) -> Any:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError(f"{column} is no JSON: {text[:40]!r}") from None
    kind, word = (list, "list") if column == "kept_tokens" else (dict, "object")
    if not isinstance(found, kind):
        raise ValueError(f"{column} is no JSON {word}: {text[:40]!r}")
    if isinstance(found, dict) and column == "item_facts" and not all(map(_is_list, found.values())):
        raise ValueError(f"{column} is no JSON object of lists: {text[:40]!r}")
    return found


def _is_list(value: Any) -> bool:
    return isinstance(value, list)
