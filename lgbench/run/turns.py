"""Whose turn it is, where several processes carry out one plan: what is left, what others did, what is held.

Nothing but the results folder connects the processes: leases say who is at work (`lgbench.store.leases`),
files that changed since the run began say what is over. No clock is read for that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lgbench.launcher import Outcome
from lgbench.plan.cells import Cell, Training, checkpoint_folder
from lgbench.run import checkpoint
from lgbench.run.measure import ending
from lgbench.run.progress import Progress
from lgbench.store import Store
from lgbench.store.files import collect_temporary
from lgbench.store.leases import Leases
from lgbench.store.rows_file import read_rows
from lgbench.store.store import UNREADABLE

Stamp = tuple[int, int, int]
"""Number, time and size of a file: another one, or written anew, it has other ones."""


@dataclass(frozen=True, slots=True)
class Start:
    """The cells that a run has to measure, and what the results folder had of them when it began."""

    cells: dict[str, Stamp | None]
    """Files of rows, by cell."""
    weights: dict[str, Stamp | None] = field(default_factory=dict)
    """Last weights, by training; only of those that are to be trained again (`--force`)."""

    @classmethod
    def of(cls, cells: Iterable[Cell], store: Store, force: bool | Sequence[str] = False) -> Start:
        """Look at the folder as it is now."""
        rows, weights = {}, {}
        for cell in cells:
            rows[cell.key] = _stamp(store.path(cell.task, cell.key))
            if _forced(cell, force):
                weights[cell.training.key] = _stamp(_last_weights(store.root, cell.training))
        return cls(rows, weights)


def begin(
    cells: Sequence[Cell], store: Store, progress: Progress, force: bool | Sequence[str] = False
) -> Start:
    """Find out what has to be measured; say what is finished already and what is measured again.

    Temporary files of killed processes are removed first. `force` asks for all cells, or for some by the
    beginnings of their keys.
    """
    collect_temporary(store.root)
    unfinished = store.unfinished((c.task, c.key) for c in cells)
    pending = [c for c in cells if _forced(c, force) or (c.task, c.key) in unfinished]
    progress.begin(total=len(pending), done_before=len(cells) - len(pending))
    for (task_name, key), reason in unfinished.items():
        if reason:
            progress.measured_again(store.path(task_name, key), reason)
    if pending and (old := store.of_older_schemas(dict.fromkeys(c.task for c in pending))):
        progress.old_files(store.root, len(old))
    return Start.of(pending, store, force)


def _forced(cell: Cell, force: bool | Sequence[str]) -> bool:
    return force if isinstance(force, bool) else cell.key.startswith(tuple(force))


def done_before(cells: Iterable[Cell], start: Start, store: Store) -> Outcome:
    """What had ended when a run began; a cell that diverged counts as in the run in which it did."""
    outcome = Outcome()
    for cell in cells:
        if cell.key not in start.cells:
            outcome.skipped_as_done += 1
            if not set(store.statuses(cell.task, cell.key)) <= {"ok", "skipped"}:
                outcome.add(cell, *_ending_of(store.path(cell.task, cell.key)))
    return outcome


class Turns:
    """What this process may do next.

    Args:
        store: the results folder.
        leases: of this process.
        start: the folder when the run began.
    """

    def __init__(self, store: Store, leases: Leases, start: Start) -> None:
        self.store, self.leases, self.start = store, leases, start
        self._trained: set[tuple[Training, frozenset[int]]] = set()

    def ended(self, cell: Cell) -> tuple[str, str] | None:
        """Status and reason of a cell that somebody measured since the run began; None if nobody did."""
        return ended_since(self.start, self.store, cell)

    def trained(self, training: Training, steps: Iterable[int]) -> bool:
        """Whether all these steps of a training have whole weights, of this run if it trains again."""
        asked = training, frozenset(steps)
        if asked in self._trained:
            return True
        if is_old(self.start, self.store.root, training):
            return False
        folder = checkpoint_folder(self.store.root, training)
        if not all(checkpoint.load(checkpoint.weights_path(folder, step)) for step in asked[1]):
            return False
        self._trained.add(asked)
        return True

    def from_the_beginning(self, training: Training) -> bool:
        """Whether a saved state of a training does not count: `--force` trains again."""
        return training.key in self.start.weights

    def take_training(self, training: Training) -> bool:
        """Get the lease of a training; False if another process has it."""
        return self.leases.take(f"training-{training.key}")

    def take_cell(self, cell: Cell) -> bool:
        """Get the lease of an evaluation; False if another process has it."""
        return self.leases.take(f"cell-{cell.key}")

    def release(self, *work: Training | Cell) -> None:
        """Give leases back; those that are not held do not matter."""
        for one in work:
            self.leases.release(f"{'cell' if isinstance(one, Cell) else 'training'}-{one.key}")


def by_what_they_unlock(groups: dict[Training, list[Cell]]) -> dict[Training, list[Cell]]:
    """Trainings with most cells first, in the order of the plan where they have equally many."""
    return dict(sorted(groups.items(), key=lambda group: -len(group[1])))


def ended_since(start: Start, store: Store, cell: Cell) -> tuple[str, str] | None:
    """Status and reason of a cell that somebody measured since a run began; None if nobody did."""
    path = store.path(cell.task, cell.key)
    if _stamp(path) == start.cells[cell.key]:
        return None
    try:
        return _ending_of(path)
    except UNREADABLE:
        return None


def _ending_of(path: Path) -> tuple[str, str]:
    return ending(read_rows(path).select(["status", "reason"]).to_pylist())


def saved(root: Path, training_key: str) -> Stamp | None:
    """What a training saved last to go on from: another stamp means that it came further."""
    return _stamp(checkpoint.resume_path(Path(root) / "checkpoints" / training_key))


def split(cells: Sequence[Cell], parts: int) -> list[list[Cell]]:
    """Share the cells out in equally large parts; cells of one training stay together.

    The same for the same plan on every machine: the largest trainings first, each to the smallest part.
    """
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.training.key, []).append(cell)
    found: list[list[Cell]] = [[] for _ in range(parts)]
    for _, group in sorted(groups.items(), key=lambda pair: (-len(pair[1]), pair[0])):
        min(found, key=len).extend(group)
    return found


def _last_weights(root: Path, training: Training) -> Path:
    return checkpoint.weights_path(checkpoint_folder(root, training), training.recipe.train_steps)


def is_old(start: Start, root: Path, training: Training) -> bool:
    """Whether a training is to be made again and was not yet."""
    if training.key not in start.weights:
        return False
    return _stamp(_last_weights(root, training)) == start.weights[training.key]


def _stamp(path: Path) -> Stamp | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
