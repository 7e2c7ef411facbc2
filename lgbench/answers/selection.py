"""Read which rows are meant: a results folder, the same at a git commit, or a part of it.

results                                   all rows of a folder
main~3:results                            those of a git commit, whether they are checked out or not
results@method=vanilla,seed=0|1|2         rows with one of these values in each of these columns
v0.1:results@task=omniglot                both
"""

from __future__ import annotations

import io
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from lgbench.errors import UserError

COLUMNS = (
    "task", "data_source", "preset", "metric", "method", "label", "backbone", "seed", "train_length",
    "train_steps", "d_model", "num_layers", "d_state", "batch_size", "lm_weight", "learning_rate",
)  # fmt: skip
"""Columns that rows may be selected by."""
EXAMPLES = "results, main:results, or results@method=vanilla,seed=0|1|2"
_GIT_S = 60
"""Seconds that git may take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What one side of a comparison was asked to be.

    Attributes:
        text: as it was typed.
        folder: of the results.
        commit: git commit that they are read from; empty for the folder as it is now.
        where: column → the values that a row may have there, as text.
    """

    text: str
    folder: Path
    commit: str = ""
    where: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def of(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The rows that have one of the values in every column."""
        for column, values in self.where.items():
            rows = rows[rows[column].map(_as_text).isin(values)]
        return rows

    @contextmanager
    def checked_out(self) -> Iterator[Path]:
        """The folder of the rows; of a commit a temporary copy.

        Raises:
            UserError: there is no such folder, no git, or the commit does not have the folder.
        """
        if not self.commit:
            yield self.folder
            return
        with tempfile.TemporaryDirectory() as place:
            _extract(self.commit, self.folder, Path(place))
            yield Path(place) / self.folder.name


def read_selection(text: str) -> Selection:
    """What a text means; a folder that exists under the whole text is that folder.

    Raises:
        UserError: it does not have the form of the examples, or names no column that can be selected by.
    """
    if text and Path(text).is_dir():
        return Selection(text=text, folder=Path(text))
    place, _, filters = text.partition("@") if "=" in text.rpartition("@")[2] else (text, "", "")
    if Path(place).is_dir() or ":" not in place:
        commit, folder = "", place
    else:
        commit, _, folder = place.partition(":")
    if not folder.strip("/ ") or commit.startswith("-"):
        raise UserError(f"cannot read '{text}': expected a results folder, e.g. {EXAMPLES}")
    return Selection(text=text, folder=Path(folder), commit=commit, where=_filters(text, filters))


def _filters(text: str, filters: str) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for part in _split(filters, ","):
        column, equals, values = (word.strip() for word in part.partition("="))
        if not equals or not values:
            raise UserError(f"cannot read '{part}' in '{text}': expected COLUMN=VALUE, e.g. {EXAMPLES}")
        if column not in COLUMNS:
            raise UserError(f"'{text}': rows are not selected by '{column}', but by {', '.join(COLUMNS)}")
        found[column] = tuple(value.strip() for value in _split(values, "|"))
    return found


def _split(text: str, sign: str) -> list[str]:
    """Parts between signs that stand outside of brackets: labels have commas inside."""
    parts, depth = [""], 0
    for character in text:
        depth += (character == "[") - (character == "]")
        if character == sign and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part for part in parts if part.strip()]


def _as_text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _extract(commit: str, folder: Path, place: Path) -> None:
    """Copy the rows of a results folder at a commit to `place/NAME`."""
    parent = folder.absolute().parent
    root = next(there for there in (parent, *parent.parents) if there.is_dir())
    inside = (parent / folder.name).relative_to(root)
    command = ["git", "-C", str(root), "archive", "--format=tar", commit, "--", f"{inside}/rows"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_GIT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"cannot read {commit}:{folder}: git does not answer ({error})") from None
    if done.returncode:
        why = (done.stderr.decode(errors="replace").strip().splitlines() or ["git archive failed"])[0]
        raise UserError(f"cannot read {commit}:{folder}: {why}. Known commits: git log --oneline")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(place, filter="data")
    target = place / folder.name
    if place / inside != target:
        (place / inside).rename(target)
