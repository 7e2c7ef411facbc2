"""Watch other processes carry out a plan, and write the rows of what none of them can do."""

from __future__ import annotations

import os
import time
from pathlib import Path

from lgbench.launcher import Outcome
from lgbench.plan.cells import Cell, checkpoint_folder, task_key
from lgbench.run import checkpoint
from lgbench.run.measure import give_up
from lgbench.run.prepare import Prepared
from lgbench.run.progress import Progress
from lgbench.run.turns import Start, done_before, ended_since, is_old, saved
from lgbench.store.files import collect_temporary
from lgbench.store.leases import collect, held_by


class Watch:
    """Sees in the results folder which cells end and what is held.

    Args:
        prepared: the plan.
        start: the folder when the run began.
        progress: is given every cell that ended.
    """

    def __init__(self, prepared: Prepared, start: Start, progress: Progress) -> None:
        self.start, self.progress = start, progress
        self.left = {cell.key: cell for cell in prepared.cells if cell.key in start.cells}
        self.outcome: Outcome = done_before(prepared.cells, start, prepared.store)
        self._prepared, self._store = prepared, prepared.store
        self._deaths: dict[str, tuple[object, int]] = {}

    def look(self) -> None:
        """See what has ended since the last look; only files that are there are looked at."""
        tasks = {cell.task for cell in self.left.values()}
        names = {task: _names(self._store.path(task, "any").parent) for task in tasks}
        for key, cell in list(self.left.items()):
            if f"{key}.parquet" not in names[cell.task]:
                continue
            if ended := ended_since(self.start, self._store, cell):
                del self.left[key]
                self.outcome.add(cell, *ended)
                self.progress.cell_done(cell, *ended)

    def end(self) -> Outcome:
        """See what ended last, and remove what killed workers left."""
        self.look()
        collect(self._store.root)
        collect_temporary(self._store.root)
        return self.outcome

    def deaths(self, lease: str) -> int:
        """Count the death of a worker that held a lease: how many died since it last saved anything.

        A name that is no lease stands for all that is left: it begins anew when anything comes further.
        """
        kind, _, key = lease.partition("-")
        now: object = None
        if kind == "training":
            now = saved(self._store.root, key)
        elif kind != "cell":
            trainings = {cell.training.key for cell in self.left.values()}
            now = sorted(self.left), {key: saved(self._store.root, key) for key in trainings}
        before, number = self._deaths.get(lease, (now, 0))
        self._deaths[lease] = now, number + 1 if before == now else 1
        return self._deaths[lease][1]

    def held(self, owner: str) -> list[str]:
        """Names of the leases that a worker holds."""
        return held_by(self._store.root, owner)

    def late(self, owner: str, since: dict[str, float], limit_s: float) -> list[str]:
        """Leases that a worker has held for too long, by this process's own clock.

        Args:
            owner: the worker.
            since: when each of its leases was seen first; kept up to date here.
            limit_s: how long is too long, seconds.
        """
        held, now = self.held(owner), time.monotonic()
        for name in since.keys() - set(held):
            del since[name]
        return [name for name in held if now - since.setdefault(name, now) > limit_s]

    def give_up_late(self, lease: str, limit_s: float) -> None:
        """Write the rows of what took longer than its limit."""
        what = "training" if lease.startswith("training") else "evaluation"
        self.give_up(lease, f"its {what} was ended after {limit_s:g} s, the limit of --cell-timeout")

    def give_up(self, lease: str, reason: str) -> None:
        """Write `failed` rows of a piece of work that no worker can do; milestones that a training reached
        are measured all the same.
        """
        kind, _, key = lease.partition("-")
        for cell in list(self.left.values()):
            if kind == "cell" and cell.key == key:
                lost = True
            else:
                lost = kind == "training" and cell.training.key == key and not self._has_weights(cell)
            if lost:
                task, anew = self._prepared.tasks[task_key(cell)], cell.training.key in self.start.weights
                give_up(cell, task, self._store, "failed", reason, anew)
        self.look()

    def _has_weights(self, cell: Cell) -> bool:
        """Whether the training of a cell came as far as the cell needs, in this run."""
        path = checkpoint.weights_path(checkpoint_folder(self._store.root, cell.training), cell.step)
        return path.exists() and not is_old(self.start, self._store.root, cell.training)


def _names(folder: Path) -> set[str]:
    """Of the files in a folder, which need not exist."""
    try:
        return set(os.listdir(folder))
    except OSError:
        return set()
