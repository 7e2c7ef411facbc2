"""Run a plan in this process: finished cells are skipped, trainings shared, failures become rows.

On a GPU several small trainings run side by side: those that differ in their seed alone in one set of
launches (see `lgbench.run.stack`), others in a CUDA stream each. Every one ends with the numbers that it
would have alone. Another process on the same results folder shares the work, see `lgbench.run.turns`.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby

from lgbench import interrupt
from lgbench.errors import CannotWrite
from lgbench.launcher import Launcher, Outcome
from lgbench.launchers._crew import Crew
from lgbench.plan.cells import Cell, Training, checkpoint_folder, load_method, task_key, why_left_out
from lgbench.plan.config import RunConfig
from lgbench.run.branch import handovers, trunks
from lgbench.run.failures import ANY, describe
from lgbench.run.measure import Items, ending, give_up, run_cell, unmeasured_row
from lgbench.run.prepare import Prepared
from lgbench.run.progress import Progress
from lgbench.run.train import Trainer, train_all
from lgbench.run.turns import Start, Turns, begin, done_before
from lgbench.store import Store
from lgbench.store.leases import Leases
from lgbench.task import Task

POLL_S = 0.2
"""Seconds between two looks at work that other processes hold, where there is nothing else to do."""

ItemsOf = dict[tuple[str, int, int, int], Items]
"""Evaluation items by task, their number, the longest context and the draw."""

Batch = dict[Training, list[Cell]]
"""Trainings that run side by side, with their cells."""


class Local(Launcher):
    """This process; a second terminal on the same folder shares the work."""

    uses = frozenset({"cell_timeout"})

    def launch(self, config: RunConfig, prepared: Prepared, progress: Progress) -> Outcome:
        """Run every cell that is not finished; in one worker process where a limit of time is set."""
        if config.cell_timeout is not None:
            return Crew(config, prepared, progress, num_workers=1).run()
        return run_plan(
            prepared.cells,
            prepared.tasks,
            prepared.store,
            progress,
            force=config.forced,
            scan_backend=config.scan_backend,
            save_every_s=config.save_every,
            side_by_side=config.side_by_side if prepared.device.type == "cuda" else 1,
        )


@dataclass(frozen=True, slots=True)
class _Failure:
    """How a training ended early."""

    status: str
    reason: str
    step: int
    """Weights of milestones up to this step were kept."""


def run_plan(
    cells: Sequence[Cell],
    tasks: Mapping[str, Task],
    store: Store,
    progress: Progress,
    *,
    force: bool | Sequence[str] = False,
    scan_backend: str = "auto",
    save_every_s: float = 60.0,
    side_by_side: int = 1,
    leases: Leases | None = None,
    start: Start | None = None,
    items: ItemsOf | None = None,
    only_train: bool = False,
) -> Outcome:
    """Train, evaluate and store every cell that is not finished; what another process does is left to it.

    Args:
        cells: the plan.
        tasks: prepared tasks by their `plan.task_key`.
        store: where rows and checkpoints go.
        progress: told what happens.
        force: train and evaluate again what is finished: all, or cells by the beginnings of their keys.
        scan_backend: see `lgbench.ops.scan.selective_scan`.
        save_every_s: seconds between two resumable training states.
        side_by_side: trainings that share a GPU at a time.
        leases: of this process; its own if left out.
        start: which cells to measure, of a run that began elsewhere; those that are not finished if left out.

        items: those that were made before; more are added.
        only_train: leave the evaluations to others.

    Raises:
        CannotWrite: the results folder cannot be written; any other error is a row of its cell.
        KeyboardInterrupt: interrupted; trainings in progress left a resumable state.
    """
    leases = leases or Leases(store.root)
    with interrupt.listening(), store.manifest, leases, progress.also(leases.tell):
        start = start or begin(cells, store, progress, force)
        pending = [cell for cell in cells if cell.key in start.cells]
        turns = Turns(store, leases, start)
        worker = _Worker(tasks, turns, progress, scan_backend, save_every_s)
        worker.items, worker.only_train = {} if items is None else items, only_train
        worker.outcome = done_before(cells, start, store)
        batches: list[Batch] = []
        for _, group in groupby(pending, key=task_key):
            groups = worker.runnable(group)
            trunk_of = trunks(groups)
            worker.trunk_of |= trunk_of
            batches += _in_batches(groups, trunk_of, side_by_side)
        batches.sort(key=worker.priority)
        worker.work(batches)
    return worker.outcome


def _in_batches(groups: Batch, trunk_of: Mapping[Training, Training], size: int) -> Iterator[Batch]:
    """At most `size` trainings at a time; those that differ in their seed alone stay together: they stack.

    Branches come after all others, when their trunks have left them a state.
    """
    batch: Batch = {}
    for branches in (False, True):
        wave = [training for training in groups if (training in trunk_of) is branches]
        for _, kin in groupby(wave, key=lambda training: replace(training, seed=0)):
            together = list(kin)
            if batch and len(batch) + len(together) > size:
                yield batch
                batch = {}
            for training in together:
                if len(batch) == size:
                    yield batch
                    batch = {}
                batch[training] = groups[training]
        if batch:
            yield batch
            batch = {}


class _Worker:
    """Does what nobody else does, batch by batch, until every cell has ended."""

    def __init__(
        self,
        tasks: Mapping[str, Task],
        turns: Turns,
        progress: Progress,
        scan_backend: str,
        save_every_s: float,
    ) -> None:
        self.tasks, self.turns, self.store, self.progress = tasks, turns, turns.store, progress
        self.scan_backend, self.save_every_s = scan_backend, save_every_s
        self.outcome = Outcome()
        self.items: ItemsOf = {}
        self.only_train = False
        self.trunk_of: dict[Training, Training] = {}

    def priority(self, batch: Batch) -> tuple[bool, int]:
        """What unlocks most comes first, and branches after all trunks."""
        return any(training in self.trunk_of for training in batch), -max(map(len, batch.values()))

    def runnable(self, cells: Iterable[Cell]) -> Batch:
        """Cells by training; those whose method does not apply, or fails when asked, get their row here."""
        by_training: Batch = {}
        for cell in cells:
            status, reason = self._unfit(cell)
            if not reason:
                by_training.setdefault(cell.training, []).append(cell)
            elif self.turns.ended(cell) is not None:
                continue
            elif status == "skipped":
                self._write(cell, status, reason)
            else:
                self._give_up(cell, status, reason)
        return by_training

    def _unfit(self, cell: Cell) -> tuple[str, str]:
        """Status and reason of a cell that cannot be run; no reason if it can."""
        if cell.fault:
            return "failed", cell.fault
        try:
            return "skipped", why_left_out(cell, self._task(cell))
        except ANY as error:
            return describe(error)

    def work(self, batches: list[Batch]) -> None:
        """Carry out all batches; those that others hold are looked at again until they are over."""
        while batches:
            moved = False
            for batch in batches:
                moved |= self._batch(batch)
            batches = [left for batch in batches if (left := _unfinished(batch))]
            if batches and not moved:
                self.progress.waiting(sum(len(cells) for batch in batches for cells in batch.values()))
                interrupt.check()
                time.sleep(POLL_S)

    def _batch(self, batch: Batch) -> bool:
        """Do of a batch what nobody else does; cells that ended are taken out. Whether there were any."""
        before = sum(map(len, batch.values()))
        self._drop_ended(batch)
        ready = {t: c for t, c in batch.items() if c and self.turns.trained(t, {x.step for x in c})}
        with self._leases_of(t for t, c in batch.items() if c and t not in ready) as mine:
            held = {t: batch[t] for t in mine}
            self._drop_ended(held)  # what was over before the lease was ours
            failures = self._train({t: list(c) for t, c in held.items() if c})
            if failures is None:
                return True
            for training, failure in failures.items():
                for cell in [c for c in batch[training] if c.step > failure.step]:
                    self._give_up(cell, failure.status, failure.reason)
                    batch[training].remove(cell)
        for training in batch:
            if training in ready or training in mine:
                if self.only_train:
                    batch[training].clear()
                self._evaluate_all(batch[training])
        return sum(map(len, batch.values())) < before

    @contextmanager
    def _leases_of(self, trainings: Iterable[Training]) -> Iterator[list[Training]]:
        """Those trainings that no other process does."""
        mine = [training for training in trainings if self.turns.take_training(training)]
        try:
            yield mine
        finally:
            for training in mine:
                self.turns.release(training)

    def _drop_ended(self, batch: Batch) -> None:
        for cells in batch.values():
            for cell in list(cells):
                if ended := self.turns.ended(cell):
                    self.outcome.add(cell, *ended)
                    self.progress.cell_done(cell, *ended)
                    cells.remove(cell)

    def _train(self, batch: Mapping[Training, Sequence[Cell]]) -> dict[Training, _Failure] | None:
        """See that every milestone of these trainings has weights; returns those that ended early.

        None if another process took a training over, because this one stood still for too long.
        """
        failures: dict[Training, _Failure] = {}
        trainers: list[Trainer] = []
        for training, cells in batch.items():
            steps = {c.step for c in cells}
            if self.turns.trained(training, steps):
                continue
            try:
                trainer = self._trainer(training, cells[0], steps)
                if trainer.finished and trainer.step:  # a trunk has taken all its steps
                    trainer.look()
                elif trainer.finished:  # nothing to train: a published model as it is
                    trainer.save_weights()
                else:
                    trainers.append(trainer)
            except CannotWrite:
                raise
            except ANY as error:
                failures[training] = _Failure(*describe(error), step=0)
        if not trainers:
            return failures
        self.progress.training_begins(trainers)
        try:
            diverged = train_all(
                trainers, save_every_s=self.save_every_s, on_progress=self.progress.training,
                should_stop=lambda: interrupt.asked() or self.turns.leases.lost,
            )  # fmt: skip
            interrupt.check()  # it came with the last steps
            return failures | {t.training: _failure(t, "diverged", str(e)) for t, e in diverged.items()}
        except CannotWrite:
            raise
        except KeyboardInterrupt:
            interrupt.check()
            if not self.turns.leases.lost:
                raise
            self.turns.leases.lost = False
            return None
        except ANY as error:
            failure = _failure(trainers[-1], *describe(error))
        finally:
            self.progress.training_ends()
        if len(trainers) == 1:
            return failures | {trainers[0].training: failure}
        suspects = [t.training for t in trainers]
        del trainer, trainers
        gc.collect()  # their memory, which each may need for itself
        for training in suspects:  # find out which one it was, and let the others finish
            alone = self._train({training: batch[training]})
            if alone is None:
                return None
            failures |= alone
        return failures

    def _trainer(self, training: Training, cell: Cell, steps: set[int]) -> Trainer:
        """A training from its beginning, or from where it was interrupted."""
        folder = checkpoint_folder(self.store.root, training)
        method = load_method(training.method, training.method_params)
        left = handovers(training, self.trunk_of, self.store.root)
        trainer = Trainer(training, self._task(cell), method, folder, steps, self.scan_backend, left)
        if not self.turns.from_the_beginning(training):
            trainer.resume()
        return trainer

    def _evaluate_all(self, cells: list[Cell]) -> None:
        """Measure the cells that nobody else does, and take them out."""
        for cell in list(cells):
            if not self.turns.take_cell(cell):
                continue
            try:
                ended = self.turns.ended(cell)
                if ended is None:
                    self._evaluate(cell)
                else:
                    self.outcome.add(cell, *ended)
                    self.progress.cell_done(cell, *ended)
            finally:
                self.turns.release(cell)
            cells.remove(cell)
            interrupt.check()  # which a plugin may have kept from ending this

    def _evaluate(self, cell: Cell) -> None:
        self.progress.evaluation_begins(cell)
        recipe = cell.recipe
        key = (task_key(cell), recipe.eval_items, recipe.eval_lengths[-1], recipe.eval_draw)
        try:
            if key not in self.items:
                self.items[key] = Items(self._task(cell), *key[1:])
            items, say = self.items[key], self.progress.evaluation
            anew = self.turns.from_the_beginning(cell.training)
            rows = run_cell(cell, self._task(cell), items, self.store, self.scan_backend, say, anew)
            self.store.write(cell.task, cell.key, rows)
        except CannotWrite:
            raise
        except ANY as error:
            self._give_up(cell, *describe(error))
            return
        ended = ending(rows)
        self.outcome.add(cell, *ended)
        self.progress.cell_done(cell, *ended)

    def _give_up(self, cell: Cell, status: str, reason: str) -> None:
        anew = self.turns.from_the_beginning(cell.training)
        last = give_up(cell, self._task(cell), self.store, status, reason, anew)
        self.outcome.failed.append((cell, status, last))
        self.progress.cell_done(cell, status, last)

    def _write(self, cell: Cell, status: str, reason: str) -> None:
        row = unmeasured_row(cell, self._task(cell), self.store, status, reason)
        self.store.write(cell.task, cell.key, [row])
        self.progress.cell_done(cell, "left out", "")  # the reason was said when the plan was made

    def _task(self, cell: Cell) -> Task:
        return self.tasks[task_key(cell)]


def _unfinished(batch: Batch) -> Batch:
    return {training: cells for training, cells in batch.items() if cells}


def _failure(trainer: Trainer, status: str, reason: str) -> _Failure:
    return _Failure(status, reason, step=trainer.kept)
