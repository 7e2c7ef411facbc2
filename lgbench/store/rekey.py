"""Write a results folder anew: rows in the current schema, everything under the keys of today.

Values stay as they are, bit by bit. What belongs to a cell or a training is renamed with it:

    rows/TASK/CELL.parquet   strips/TASK/CELL.npz   failures/CELL.txt   checkpoints/TRAINING/

An interrupted migration is carried on by the same command: rows, which name the old keys, are written last.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lgbench.errors import UserError
from lgbench.store.digest import content_digest
from lgbench.store.rows_file import UNREADABLE, first_line, read_rows, write_rows
from lgbench.store.schema import SCHEMA, SCHEMA_VERSION

Row = Mapping[str, Any]


def recorded_keys(row: Row) -> tuple[str, str]:
    """Keys of cell and training as they stand in a row."""
    return row["cell"], row["training"]


def nothing_more(row: Row) -> Row:
    """No columns besides those of the row."""
    return {}


@dataclass
class Migration:
    """What was done, or would be."""

    written: dict[Path, Path] = field(default_factory=dict)
    """Files of rows that are written anew, and where."""
    unchanged: list[Path] = field(default_factory=list)
    moved: dict[Path, Path] = field(default_factory=dict)
    """What is renamed with them."""
    left: list[Path] = field(default_factory=list)
    """What would be renamed to something that is there already."""
    unreadable: dict[Path, str] = field(default_factory=dict)
    """Files of rows that stay as they are, and why."""


def migrate(
    root: Path,
    rekey: Callable[[Row], tuple[str, str]] = recorded_keys,
    describe: Callable[[Row], Row] = nothing_more,
    *,
    dry_run: bool = False,
) -> Migration:
    """Bring a results folder up to date.

    Args:
        root: the folder.
        rekey: the keys of cell and training from the first row of a cell, whose maps are dictionaries.
        describe: columns that older rows lack, from that row; only null values are replaced.
        dry_run: change nothing.

    Raises:
        UserError: different rows would get one key, or a training two keys; nothing is changed then.
    """
    done, tables, trainings = _planned(root, rekey, describe)
    _refuse_collisions(done, tables)
    _plan_moves(root, done, trainings)
    if not dry_run:
        for old, new in done.moved.items():
            old.rename(new)
        for old, new in done.written.items():
            write_rows(new, tables[old])
            if new != old:
                old.unlink()
    return done


def _planned(
    root: Path, rekey: Callable[[Row], tuple[str, str]], describe: Callable[[Row], Row]
) -> tuple[Migration, dict[Path, pa.Table], dict[str, str]]:
    """Files to write, the new rows of every file, and old keys of trainings with the new ones."""
    done, tables, trainings = Migration(), dict[Path, pa.Table](), dict[str, str]()
    for path in sorted((root / "rows").rglob("*.parquet")):
        try:
            table = read_rows(path)
            version = pq.read_schema(path).metadata[b"lgbench_schema_version"].decode()
        except UNREADABLE as error:
            done.unreadable[path] = first_line(error)
            continue
        row = table.slice(0, 1).to_pylist(maps_as_pydicts="strict")[0]
        try:
            cell, training = rekey(row)
        except UserError as error:
            done.unreadable[path] = f"its keys of today cannot be found: {error}"
            continue
        if trainings.setdefault(row["training"], training) != training:
            both = f"{trainings[row['training']]} and {training}"
            raise UserError(f"training {row['training']} of {path} would get two keys: {both}")
        tables[path] = _with_columns(table, {"cell": cell, "training": training}, describe(row))
        target = path.with_name(f"{cell}.parquet")
        changed = content_digest(tables[path]) != content_digest(table)
        if changed or target != path or version != str(SCHEMA_VERSION):
            done.written[path] = target
        else:
            done.unchanged.append(path)
    return done, tables, trainings


def _with_columns(table: pa.Table, keys: Row, described: Row) -> pa.Table:
    for name, value in {**described, **keys}.items():
        kind = SCHEMA.field(name).type
        scalar = pa.scalar(value, kind)
        column = pa.repeat(scalar, len(table)) if name in keys else table[name].fill_null(scalar)
        table = table.set_column(table.schema.get_field_index(name), SCHEMA.field(name), column)
    return table


def _refuse_collisions(done: Migration, tables: Mapping[Path, pa.Table]) -> None:
    owners = {path: path for path in [*done.unchanged, *done.unreadable]}
    for old, new in done.written.items():
        other = owners.setdefault(new, old)
        if other == old:
            continue
        if other not in tables or content_digest(tables[other]) != content_digest(tables[old]):
            raise UserError(
                f"{old} and {other} would both become {new.name} and differ; move one of the two away first"
            )
    if clash := [p for p in done.written.values() if done.written.get(p, p) != p]:
        raise UserError(f"{clash[0]} would be replaced by the rows of another cell; move it away first")


def _plan_moves(root: Path, done: Migration, trainings: Mapping[str, str]) -> None:
    renamed = [
        (root / "checkpoints" / old, root / "checkpoints" / new) for old, new in sorted(trainings.items())
    ]
    for old, new in done.written.items():
        strips, failures = root / "strips" / old.parent.name, root / "failures"
        renamed += [(strips / f"{old.stem}.npz", strips / f"{new.stem}.npz")]
        renamed += [(failures / f"{old.stem}.txt", failures / f"{new.stem}.txt")]
    for old, new in renamed:
        if old == new or not old.exists():
            continue
        if new.exists() or new in done.moved.values():
            done.left.append(old)
        else:
            done.moved[old] = new
