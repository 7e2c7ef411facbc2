"""Run a plan in this process: finished cells are skipped, trainings shared, failures become rows.

On a GPU several small trainings run side by side: those that differ in their seed alone in one set of
launches (see `lgbench.run.stack`), others in a CUDA stream each. Every one ends with the numbers that it
would have alone.
"""

from __future__ import annotations

import gc
import signal
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import groupby

import torch
from rich.console import Console

from lgbench.errors import CannotWrite, UserError
from lgbench.plan.cells import Cell, Training, checkpoint_folder, load_method, task_key, why_left_out
from lgbench.plan.config import RunConfig
from lgbench.run import checkpoint
from lgbench.run.branch import handovers, trunks
from lgbench.run.measure import Items, failure_path, run_cell, unmeasured_row
from lgbench.run.prepare import Prepared
from lgbench.run.progress import Progress
from lgbench.run.train import Trainer, train_all
from lgbench.store import Store, atomic_file
from lgbench.task import Task


@dataclass
class Outcome:
    """How many cells ended how."""

    finished: int = 0
    skipped_as_done: int = 0
    failed: list[tuple[Cell, str, str]] = field(default_factory=list)
    """Cells that ended as failed, out_of_memory or diverged: cell, status, reason."""


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
    force: bool = False,
    scan_backend: str = "auto",
    save_every_s: float = 60.0,
    side_by_side: int = 1,
) -> Outcome:
    """Train, evaluate and store every cell that is not finished.

    Args:
        cells: the plan.
        tasks: prepared tasks by their `plan.task_key`.
        store: where rows and checkpoints go.
        progress: told what happens.
        force: train and evaluate again what is finished.
        scan_backend: see `lgbench.ops.scan.selective_scan`.
        save_every_s: seconds between two resumable training states.
        side_by_side: trainings that share a GPU at a time.

    Raises:
        CannotWrite: the results folder cannot be written; any other error is a row of its cell.
        KeyboardInterrupt: interrupted; trainings in progress left a resumable state.
    """
    outcome = Outcome()
    unfinished = store.unfinished((c.task, c.key) for c in cells)
    pending = [c for c in cells if force or (c.task, c.key) in unfinished]
    outcome.skipped_as_done = len(cells) - len(pending)
    progress.begin(total=len(pending), done_before=outcome.skipped_as_done)
    for (task_name, key), reason in unfinished.items():
        if reason:
            progress.measured_again(store.path(task_name, key), reason)
    if pending and (old := store.of_older_schemas(dict.fromkeys(c.task for c in pending))):
        progress.old_files(store.root, len(old))
    items: dict[tuple[str, int, int, int], Items] = {}
    with _polite_interrupt() as should_stop, store.manifest:
        for task_id, group in groupby(pending, key=task_key):
            task = tasks[task_id]
            groups = _runnable(group, task, store, outcome, progress)
            trunk_of = trunks(groups)
            for batch in _in_batches(groups, trunk_of, side_by_side):
                failures = _train(
                    batch, trunk_of, task, store, progress, force, scan_backend, save_every_s, should_stop
                )
                for training, training_cells in batch.items():
                    for cell in training_cells:
                        failure = failures.get(training)
                        if failure is not None and cell.step > failure.step:
                            _give_up(cell, task, store, outcome, progress, failure.status, failure.reason)
                            continue
                        _evaluate(cell, task, items, store, outcome, progress, scan_backend)
                        if should_stop():
                            raise KeyboardInterrupt
    return outcome


def launch(config: RunConfig, prepared: Prepared, console: Console) -> Outcome:
    """Run every cell that is not finished."""
    return run_plan(
        prepared.cells,
        prepared.tasks,
        prepared.store,
        Progress(console),
        force=config.force,
        scan_backend=config.scan_backend,
        save_every_s=config.save_every,
        side_by_side=config.side_by_side if prepared.device.type == "cuda" else 1,
    )


def _runnable(
    cells: Iterable[Cell], task: Task, store: Store, outcome: Outcome, progress: Progress
) -> dict[Training, list[Cell]]:
    """Cells by training; those whose method does not apply get their `skipped` row here."""
    by_training: dict[Training, list[Cell]] = {}
    for cell in cells:
        reason = why_left_out(cell, task)
        if not reason:
            by_training.setdefault(cell.training, []).append(cell)
        else:
            store.write(cell.task, cell.key, [unmeasured_row(cell, task, store, "skipped", reason)])
            progress.cell_done(cell, "left out", "")
    return by_training


def _in_batches(
    groups: dict[Training, list[Cell]], trunk_of: Mapping[Training, Training], size: int
) -> Iterator[dict[Training, list[Cell]]]:
    """At most `size` trainings at a time; those that differ in their seed alone stay together: they stack.

    Branches come after all others, when their trunks have left them a state.
    """
    batch: dict[Training, list[Cell]] = {}
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


def _train(
    batch: Mapping[Training, Sequence[Cell]],
    trunk_of: Mapping[Training, Training],
    task: Task,
    store: Store,
    progress: Progress,
    force: bool,
    scan_backend: str,
    save_every_s: float,
    should_stop: object,
) -> dict[Training, _Failure]:
    """See that every milestone of these trainings has weights; returns those that ended early."""
    failures: dict[Training, _Failure] = {}
    trainers: list[Trainer] = []
    for training, cells in batch.items():
        folder = checkpoint_folder(store.root, training)
        steps = {c.step for c in cells}
        if not force and all(checkpoint.load(checkpoint.weights_path(folder, s)) for s in steps):
            continue
        try:
            method = load_method(training.method, training.method_params)
            left = handovers(training, trunk_of, store.root)
            trainer = Trainer(training, task, method, folder, steps, scan_backend, left)
            if not force:
                trainer.resume()
            if trainer.finished and trainer.step:  # a trunk has taken all its steps
                trainer.look()
            elif trainer.finished:  # nothing to train: a published model as it is
                trainer.save_weights()
            else:
                trainers.append(trainer)
        except CannotWrite:
            raise
        except Exception as error:
            failures[training] = _Failure(*_describe(error), step=0)
    if not trainers:
        return failures
    progress.training_begins(trainers)
    try:
        diverged = train_all(
            trainers, save_every_s=save_every_s, on_progress=progress.training, should_stop=should_stop
        )
        return failures | {t.training: _failure(t, "diverged", str(e)) for t, e in diverged.items()}
    except CannotWrite:
        raise
    except Exception as error:
        failure = _failure(trainers[-1], *_describe(error))
    finally:
        progress.training_ends()
    if len(trainers) == 1:
        return failures | {trainers[0].training: failure}
    suspects = [t.training for t in trainers]
    del trainer, trainers
    gc.collect()  # their memory, which each may need for itself
    for training in suspects:  # find out which one it was, and let the others finish
        alone = {training: batch[training]}
        failures |= _train(
            alone, trunk_of, task, store, progress, force, scan_backend, save_every_s, should_stop
        )
    return failures


def _failure(trainer: Trainer, status: str, reason: str) -> _Failure:
    return _Failure(status, reason, step=trainer.history[-1][0] if trainer.history else 0)


def _evaluate(
    cell: Cell,
    task: Task,
    items: dict[tuple[str, int, int, int], Items],
    store: Store,
    outcome: Outcome,
    progress: Progress,
    scan_backend: str,
) -> None:
    progress.evaluation_begins(cell)
    recipe = cell.recipe
    key = (task_key(cell), recipe.eval_items, recipe.eval_lengths[-1], recipe.eval_draw)
    try:
        if key not in items:
            items[key] = Items(task, *key[1:])
        rows = run_cell(cell, task, items[key], store, scan_backend, progress.evaluation)
    except CannotWrite:
        raise
    except Exception as error:
        _give_up(cell, task, store, outcome, progress, *_describe(error))
        return
    store.write(cell.task, cell.key, rows)
    outcome.finished += 1
    progress.cell_done(cell, "ok", "")


def _describe(error: Exception) -> tuple[str, str]:
    """Status and reason of an exception inside a cell: the traceback, or one line that needs none."""
    if isinstance(error, UserError):
        return "failed", " ".join(str(error).split())
    status = "out_of_memory" if isinstance(error, (torch.OutOfMemoryError, MemoryError)) else "failed"
    return status, "".join(traceback.format_exception(error))


def _give_up(
    cell: Cell, task: Task, store: Store, outcome: Outcome, progress: Progress, status: str, reason: str
) -> None:
    """A cell without numbers becomes a row with its status; the traceback is kept beside it."""
    last = reason.strip().splitlines()[-1]
    if last != reason.strip():
        with atomic_file(failure_path(store.root, cell)) as temporary:
            temporary.write_text(reason)
    store.write(cell.task, cell.key, [unmeasured_row(cell, task, store, status, last)])
    outcome.failed.append((cell, status, last))
    progress.cell_done(cell, status, last)


@contextmanager
def _polite_interrupt():
    """The first Ctrl-C lets the current steps end and saves; a second one stops at once."""
    pressed = False

    def on_signal(signum: int, frame: object) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    previous = signal.getsignal(signal.SIGINT)
    try:
        signal.signal(signal.SIGINT, on_signal)
    except ValueError:  # not in the main thread: nobody can press Ctrl-C here
        yield lambda: False
        return
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, previous)
