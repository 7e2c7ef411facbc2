"""Say what is going on: a live bar on a terminal, a plain line now and then anywhere else.

Whoever else wants to know gets events, dictionaries of plain values:

| event | besides `event` |
|---|---|
| plan | total, finished_before |
| training | name, training, step, steps, and once there is a look at the loss: loss, tokens_per_s, left_s |
| evaluation | name, cell |
| waiting | cells: how many others do |
| cell | name, cell, status, reason, done, total |
| worker_died | how, held |
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from lgbench.safe_text import for_rich

if TYPE_CHECKING:
    from lgbench.plan.cells import Cell, Training
    from lgbench.run.train import Trainer

PLAIN_EVERY_S = 15.0
"""Seconds between two plain lines."""


Sink = Callable[[Mapping[str, Any]], None]
"""What takes events."""


class Progress:
    """Reports to one console, and to whoever takes events.

    Args:
        console: where to; whether it is a terminal decides the form.
        sinks: are given every event.
    """

    def __init__(self, console: Console, sinks: Sequence[Sink] = ()) -> None:
        self.console, self.live = console, console.is_terminal
        self._sinks = list(sinks)
        self._waits = False
        self.total = self.number = 0
        self._bar: Bar | None = None
        self._rows: dict[int, int] = {}
        self._last = 0.0

    @contextmanager
    def also(self, sink: Sink) -> Iterator[None]:
        """Give events to one more for a while."""
        self._sinks.append(sink)
        try:
            yield
        finally:
            self._sinks.remove(sink)

    def begin(self, total: int, done_before: int) -> None:
        """A plan starts."""
        self.total, self.number = total, 0
        self._event("plan", total=total, finished_before=done_before)
        if done_before:
            self._say(f"Finished already and not run again (--force does): {done_before} of the cells.")

    def measured_again(self, path: Path, reason: str) -> None:
        """A cell has a file of rows that does not count as finished."""
        self._say(f"Measured again: {path}: {reason}", "yellow")

    def old_files(self, root: Path, num: int) -> None:
        """The folder has files of rows that an older version wrote, while cells are to be measured."""
        files = "1 file" if num == 1 else f"{num} files"
        self._say(
            f"Note: {files} of rows in {root} are of an older lgbench, and their cells may count as not "
            f"measured. Bring them up to date with: lgbench results migrate --results {root}",
            "yellow",
        )

    def training_begins(self, trainers: Sequence[Trainer]) -> None:
        """Some trainings start, side by side."""
        if self.live:
            tasks = {f"{t.training.task} L_train={t.training.high}" for t in trainers}
            self._say(f"training {', '.join(sorted(tasks))}: methods and seeds below")
            self._bar = Bar(
                TextColumn("{task.description}", markup=False), BarColumn(bar_width=8),
                TextColumn("{task.completed:,}/{task.total:,} loss {task.fields[loss]} {task.fields[speed]}"),
                TimeRemainingColumn(compact=True),
                console=self.console, transient=True,
            )  # fmt: skip
            self._bar.start()
        self._waits = False
        for trainer in trainers:
            self._event("training", **_training(trainer))
            name = training_name(trainer.training)
            total = trainer.recipe.train_steps
            if self._bar is not None:
                self._rows[id(trainer)] = self._bar.add_task(
                    f"{trainer.training.method} s{trainer.training.seed}",
                    total=total,
                    completed=trainer.step,
                    loss="-",
                    speed="",
                )
            else:
                start = f" from step {trainer.step:,}" if trainer.step else ""
                self._say(f"training {name}: {total:,} steps{start}")
        self._last = time.monotonic()

    def training(self, trainer: Trainer) -> None:
        """A training has come to a look at its loss."""
        loss = f"{trainer.history[-1][1]:.4f}"
        speed = trainer.tokens / max(trainer.wall_s, 1e-9)
        left = (trainer.recipe.train_steps - trainer.step) * trainer.wall_s / max(trainer.step, 1)
        seen = {"loss": trainer.history[-1][1], "tokens_per_s": speed, "left_s": left}
        self._event("training", **_training(trainer), **seen)
        if self._bar is not None:
            row = self._rows[id(trainer)]
            self._bar.update(row, completed=trainer.step, loss=loss, speed=f"{_short(speed)} tokens/s")
        elif time.monotonic() - self._last > PLAIN_EVERY_S or trainer.finished:
            self._last = time.monotonic()
            name = training_name(trainer.training)
            self._say(
                f"  {name}: step {trainer.step:,} of {trainer.recipe.train_steps:,}, "
                f"loss {loss}, {_short(speed)} tokens/s, {left:.0f} s left"
            )

    def training_ends(self) -> None:
        """The trainings are over."""
        if self._bar is not None:
            self._bar.stop()
            self._bar, self._rows = None, {}

    def evaluation_begins(self, cell: Cell) -> None:
        """A cell is evaluated next."""
        self._cell, self._waits = cell, False
        self._event("evaluation", name=cell_name(cell), cell=cell.key)

    def evaluation(self, what: str) -> None:
        """A part of the evaluation starts."""
        if not self.live and time.monotonic() - self._last > PLAIN_EVERY_S:
            self._last = time.monotonic()
            self._say(f"  evaluating {cell_name(self._cell)}: {what}")

    def cell_done(self, cell: Cell, status: str, reason: str) -> None:
        """A cell has its rows."""
        self.number += 1
        self._event(
            "cell", name=cell_name(cell), cell=cell.key, status=status, reason=reason, done=self.number,
            total=self.total,
        )  # fmt: skip
        if status == "ok":
            ending, style = "done", None
        elif status == "skipped":  # its reason was said before the run
            ending, style = "left out", "yellow"
        else:
            ending, style = f"{status}: {reason}" if reason else status, "red"
        self._say(f"[{self.number}/{self.total}] {cell_name(cell)}: {ending}", style)

    def waiting(self, num_cells: int) -> None:
        """Other processes do all that is left; said once."""
        if not self._waits:
            self._waits = True
            self._event("waiting", cells=num_cells)
            self._say(f"Other processes do the rest, {num_cells} cells; see: lgbench status")

    def worker_died(self, how: str, held: Sequence[str]) -> None:
        """A worker process died and another one takes its place."""
        self._event("worker_died", how=how, held=list(held))
        doing = f"during {', '.join(held)}" if held else "before it began"
        self._say(f"A worker process ended by {how} {doing}; another one goes on.", "yellow")

    def _event(self, event: str, **facts: Any) -> None:
        for sink in self._sinks:
            sink({"event": event, **facts})

    def _say(self, line: str, style: str | None = None) -> None:
        """One line as it is: brackets in labels and messages are no markup, long lines are not folded."""
        self.console.print(for_rich(line, style or ""), soft_wrap=True)


def cell_name(cell: Cell) -> str:
    """A cell in words."""
    return f"{cell.task} {cell.label} L_train={cell.recipe.train_length} seed={cell.seed} step={cell.step:,}"


def training_name(training: Training) -> str:
    """A training in words."""
    return f"{training.task} {training.method} L_train={training.high} seed={training.seed}"


def _training(trainer: Trainer) -> dict[str, Any]:
    training = trainer.training
    return {
        "name": training_name(training), "training": training.key, "step": trainer.step,
        "steps": trainer.recipe.train_steps,
    }  # fmt: skip


def _short(number: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.0f}"
