"""Decide whether somebody's rows may stand beside ours, cell by cell, and put accepted ones into a store.

What can be verified without running anything is: that the file is what was written, that it is in today's
schema, that keys follow from what the rows say, that they were measured on the items that ours were, that
grids are complete, that numbers agree and that their provenance is possible. Whether the numbers are true is
for somebody to measure again: `lgbench compare` says how a repetition differs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lgbench.answers.export import ENVIRONMENTS
from lgbench.answers.plausible import problems
from lgbench.errors import UserError
from lgbench.store import SCHEMA_VERSION, Store, atomic_file, from_texts, read
from lgbench.store.digest import content_digest
from lgbench.store.rows_file import read_table, write_rows
from lgbench.store.store import UNREADABLE, first_line

Rekey = Callable[[Mapping[str, Any]], tuple[str, str]]
"""Keys of cell and training that follow from a row; a UserError where they cannot be found."""
_SAFE = re.compile(r"[A-Za-z0-9_]+")
_ITEMS = ("task", "task_params", "data_fingerprint", "task_identity", "eval_draw")
_POINT = ("metric", "axis", "eval_length", "num_queries")


@dataclass(slots=True, kw_only=True)
class Verdict:
    """What was found out about one cell, or about a file that cannot be read."""

    name: str
    """Task, method, backbone, L_train, seed and key; of a file its path."""
    cell: str = ""
    task: str = ""
    problems: list[str] = field(default_factory=list)
    """Why it is refused; empty if it is accepted."""
    notes: list[str] = field(default_factory=list)
    is_known: bool = False
    """Whether the very same rows are in our store already."""


@dataclass(slots=True, kw_only=True)
class Submission:
    """Somebody's rows, judged."""

    verdicts: list[Verdict]
    tables: dict[str, pa.Table]
    """Accepted cells that are new, by key."""
    environments: dict[str, str]

    @property
    def is_accepted(self) -> bool:
        """Whether nothing was refused."""
        return not any(verdict.problems for verdict in self.verdicts)


def examine(path: Path, ours: Path, rekey: Rekey) -> Submission:
    """Judge every cell of a file that `lgbench export --format parquet` wrote, or of a results folder.

    Args:
        path: the file or folder.
        ours: results folder that the rows would join; it may be missing.
        rekey: how keys follow from rows.

    Raises:
        UserError: there is no such file, or no rows in it.
    """
    tables, environments, verdicts = _read(path)
    if not tables and not verdicts:
        raise UserError(f"no rows in {path}; make a file with: lgbench export --format parquet --out FILE")
    known = _Ours(ours)
    seen: set[str] = set()
    accepted: dict[str, pa.Table] = {}
    for table in tables:
        verdict = _judge(table, environments, known, rekey)
        if verdict.cell in seen:
            verdict.problems.append("another file of the submission has the same cell")
        seen.add(verdict.cell)
        verdicts.append(verdict)
        if not verdict.problems and not verdict.is_known:
            accepted[verdict.cell] = table
    return Submission(verdicts=verdicts, tables=accepted, environments=environments)


def merge(submission: Submission, into: Path) -> int:
    """Write the accepted new cells and their environments into a results folder; how many cells.

    Raises:
        CannotWrite: the folder cannot be written.
    """
    store = Store(into)
    for cell, table in submission.tables.items():
        name = table["environment"][0].as_py()
        target = into / "environments" / f"{name}.json"
        if not target.exists():
            with atomic_file(target) as temporary:
                temporary.write_text(submission.environments[name], encoding="utf-8")
        write_rows(store.path(table["task"][0].as_py(), cell), table)
    return len(submission.tables)


def _read(path: Path) -> tuple[list[pa.Table], dict[str, str], list[Verdict]]:
    """A table a cell, texts of environments, and a verdict for each file that cannot be read."""
    if path.is_dir():
        files = sorted((path / "rows").rglob("*.parquet"))
        texts = {
            file.stem: file.read_text(encoding="utf-8") for file in (path / "environments").glob("*.json")
        }
    elif path.is_file():
        files, texts = [path], {}
    else:
        raise UserError(
            f"no file or folder '{path}' to submit; make one with: lgbench export --format parquet"
        )
    tables, refused = [], []
    for file in files:
        try:
            version = (pq.read_schema(file).metadata or {}).get(b"lgbench_schema_version", b"none").decode()
            if version != str(SCHEMA_VERSION):
                raise ValueError(
                    f"schema version {version}, submissions are of version {SCHEMA_VERSION}; "
                    "bring yours up to date with: lgbench results migrate"
                )
            table = read_table(file)
            packed = pq.read_metadata(file).metadata.get(ENVIRONMENTS.encode(), b"{}")
            texts |= {str(name): str(text) for name, text in json.loads(packed).items()}
        except (*UNREADABLE, RecursionError) as error:
            refused.append(Verdict(name=str(file), problems=[first_line(error)]))
            continue
        keys = pc.unique(table["cell"]).to_pylist()
        tables += [table.filter(pc.equal(table["cell"], key)).combine_chunks() for key in keys if key]
        if None in keys:
            refused.append(Verdict(name=str(file), problems=["rows without a cell"]))
    return tables, texts, refused


def _judge(table: pa.Table, environments: Mapping[str, str], ours: _Ours, rekey: Rekey) -> Verdict:
    row = table.slice(0, 1).to_pylist(maps_as_pydicts="strict")[0]
    name = " ".join(str(row[column]) for column in ("task", "label", "backbone"))
    verdict = Verdict(
        name=f"{name}, L_train {row['train_length']}, seed {row['seed']}, cell {row['cell']}",
        cell=row["cell"],
        task=row["task"] or "",
    )
    if not _SAFE.fullmatch(verdict.cell) or not _SAFE.fullmatch(verdict.task):
        verdict.problems.append("the names of its cell and task would be no file names")
        return verdict
    verdict.problems += problems(table, environments, datetime.now(UTC))
    if not verdict.problems:
        verdict.problems += _wrong_keys(table, row, rekey)
    if not verdict.problems:
        ours.judge(table, row, verdict)
    return verdict


def _wrong_keys(table: pa.Table, row: Mapping[str, Any], rekey: Rekey) -> list[str]:
    """Whether cell and training are the hashes of what the rows say."""
    try:
        cell, training = rekey(row)
    except (UserError, ValueError) as error:
        return [f"its keys cannot be verified: {first_line(error)}"]
    wrong = {"cell": (row["cell"], cell), "training": (row["training"], training)}
    return [
        f"its {name} is {given}, what it says of itself gives {right}"
        for name, (given, right) in wrong.items()
        if given != right
    ]


class _Ours:
    """What our own store says of cells, items and chance."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.cells: set[str] = set()
        self.items: dict[tuple, set[str]] = {}
        self.chances: dict[tuple, float] = {}
        if not root.is_dir():
            return
        table = read([root]).table
        self.cells = set(pc.unique(table["cell"]).to_pylist())
        columns = ["status", "recipe", "items_hash", "chance", *_ITEMS, *_POINT]
        for row in table.select(columns).to_pylist(maps_as_pydicts="strict"):
            if row["status"] == "ok" and row["items_hash"]:
                key = _items_key(row)
                self.items.setdefault(key, set()).add(row["items_hash"])
                self.chances[key, *(row[name] for name in _POINT)] = row["chance"]

    def judge(self, table: pa.Table, row: Mapping[str, Any], verdict: Verdict) -> None:
        """Compare one cell with ours: the same cell, then the same items, then the same chance."""
        if row["cell"] in self.cells:
            mine = read_table(Store(self.root).path(row["task"], row["cell"]))
            verdict.is_known = content_digest(mine) == content_digest(table)
            if not verdict.is_known:
                verdict.problems.append("ours has this cell with other rows; see: lgbench compare")
                return
        rows = table.filter(pc.equal(table["status"], "ok"))
        hashes = set(rows["items_hash"].to_pylist())
        expected = self.items.get(_items_key(row))
        if expected is None:
            verdict.notes.append("ours has no rows of this task and data to compare its items with")
            return
        if not hashes <= expected:
            other = ", ".join(sorted(hashes - expected))
            verdict.problems.append(
                f"measured on other items ({other}), ours are {', '.join(sorted(expected))}"
            )
            return
        for point in rows.select([*_POINT, "chance"]).to_pylist():
            where = (_items_key(row), *(point[name] for name in _POINT))
            right = self.chances.get(where, point["chance"])
            if abs(right - point["chance"]) > 1e-6 * max(1.0, abs(right)):
                verdict.problems.append(
                    f"chance of {point['metric']} at {point['eval_length']} is {point['chance']:.6g}, "
                    f"on these items it is {right:.6g}"
                )
                return


def _items_key(row: Mapping[str, Any]) -> tuple:
    """What decides evaluation items: task, data and how many there are."""
    recipe = from_texts(row["recipe"])
    named = [row[name] if name != "task_params" else json.dumps(row[name], sort_keys=True) for name in _ITEMS]
    named[_ITEMS.index("task_identity")] = row["task_identity"] or "v1"
    return (*named, recipe.get("eval_items"))
