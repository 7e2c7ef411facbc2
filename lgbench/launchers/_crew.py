"""Worker processes on this machine: started, watched, and started again when they die or hang.

The driver trains nothing. It sees in the results folder which cells have ended and which lease a worker
holds; with a limit of time it ends a worker that holds one for too long, and writes the rows itself.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import torch

import lgbench
from lgbench.errors import UserError
from lgbench.interrupt import finishing, patient
from lgbench.launcher import Job, Outcome
from lgbench.plan.config import RunConfig
from lgbench.run.prepare import Prepared
from lgbench.run.progress import Progress
from lgbench.run.turns import begin
from lgbench.run.watch import Watch
from lgbench.store.leases import Leases, new_owner

LOOK_S = 0.2
"""Seconds between two looks at the folder and the workers."""

DEATHS = 5
"""Workers that may die at a piece of work, none of which saved anything of it, before it is given up."""

BEGINNING = "the beginning of a worker"

INTERRUPTED = 130


@dataclass
class _Member:
    """One worker process."""

    process: subprocess.Popen[str]
    owner: str
    errors: IO[str]
    slot: int
    since: dict[str, float] = field(default_factory=dict)
    """When each lease that it holds was seen first, by this process's monotonic clock."""
    held: list[str] = field(default_factory=list)
    """Leases that it was seen with last; another worker takes them over as soon as it is gone."""


class Crew:
    """Workers on one machine.

    Args:
        config: what was asked for.
        prepared: the plan.
        progress: told what happens.
        num_workers: processes at a time.
    """

    def __init__(self, config: RunConfig, prepared: Prepared, progress: Progress, num_workers: int) -> None:
        self.config, self.prepared, self.progress, self.num_workers = config, prepared, progress, num_workers
        self.members: list[_Member] = []

    def run(self) -> Outcome:
        """Start the workers and wait until every cell has ended.

        Raises:
            UserError: a worker cannot work; its words.
            KeyboardInterrupt: after the workers have saved their trainings.
        """
        with Leases(self.prepared.store.root) as own, self.progress.also(own.tell):
            own.tell({"event": "watching"})
            return self._run()

    def _run(self) -> Outcome:
        start = begin(self.prepared.cells, self.prepared.store, self.progress, self.config.forced)
        self.watch = Watch(self.prepared, start, self.progress)
        try:
            for slot in range(min(self.num_workers, len(start.cells))):
                self._start(slot)
            while self.members:
                time.sleep(LOOK_S)
                self.watch.look()
                for member in list(self.members):
                    member.held = self.watch.held(member.owner) or member.held
                    if member.process.poll() is not None:
                        self._ended(member)
                    elif self.config.cell_timeout is not None:
                        self._end_if_it_hangs(member, self.config.cell_timeout)
        finally:
            with finishing():
                self._stop()
        return self.watch.end()

    def _start(self, slot: int) -> None:
        """Start a worker; `slot` decides its GPU."""
        cells = [cell for cell in self.prepared.cells if cell.key in self.watch.left]
        threads = max(1, len(os.sched_getaffinity(0)) // self.num_workers)
        alone = self.prepared.device.type != "cpu" or self.num_workers == 1 or "OMP_NUM_THREADS" in os.environ
        job = Job.of(
            self.config, self.watch.start, cells, new_owner(), num_threads=None if alone else threads
        )
        # closed when the worker is gone
        errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        process = subprocess.Popen(
            [sys.executable, "-m", "lgbench.launchers._worker"], stdin=subprocess.PIPE, stderr=errors,
            stdout=subprocess.DEVNULL, encoding="utf-8", env=self._environment(slot), start_new_session=True,
        )  # fmt: skip
        assert process.stdin is not None
        self.members.append(_Member(process, job.owner, errors, slot))
        with suppress(BrokenPipeError):  # it is dead already, which the next look shows
            process.stdin.write(json.dumps(job.as_dict()) + "\n")
            process.stdin.flush()

    def _environment(self, slot: int) -> dict[str, str]:
        here = str(Path(lgbench.__file__).parent.parent)
        path = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {**os.environ, "PYTHONPATH": path}
        if self.prepared.device.type == "cuda":
            seen = os.environ.get("CUDA_VISIBLE_DEVICES", "")
            gpus = seen.split(",") if seen else [str(k) for k in range(torch.cuda.device_count())]
            environment["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
        return environment

    def _ended(self, member: _Member) -> None:
        """A worker is gone: because nothing is left, because something is wrong, or by accident."""
        self.members.remove(member)
        said, code = self._last_words(member), member.process.returncode
        if code == 2:
            raise UserError(said.strip() or "a worker process gave up without a word")
        if code == INTERRUPTED:
            raise KeyboardInterrupt
        sys.stderr.write(said)
        if code == 0:
            return
        how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        deaths = {name: self.watch.deaths(name) for name in member.held or [BEGINNING]}
        for name, number in deaths.items():
            if number < DEATHS:
                continue
            if name == BEGINNING:
                raise UserError(f"worker processes end before they begin ({how}): {said.strip()[-300:]}")
            self.watch.give_up(name, f"{DEATHS} processes died of it one after another, the last by {how}")
        self.progress.worker_died(how, member.held)
        time.sleep(min(0.1 * 2 ** max(deaths.values()), 5.0))
        self._start(member.slot)

    def _end_if_it_hangs(self, member: _Member, limit_s: float) -> None:
        late = self.watch.late(member.owner, member.since, limit_s)
        if not late:
            return
        member.process.kill()
        member.process.wait()
        self.members.remove(member)
        sys.stderr.write(self._last_words(member))
        for name in late:
            self.watch.give_up_late(name, limit_s)
        self._start(member.slot)

    def _last_words(self, member: _Member) -> str:
        assert member.process.stdin is not None
        with suppress(BrokenPipeError):
            member.process.stdin.close()
        member.errors.seek(0)
        with member.errors:
            return member.errors.read()

    def _stop(self) -> None:
        """Let the workers save and end; those that take long, or all after another Ctrl-C, are killed."""
        try:
            for member in self.members:
                member.process.send_signal(signal.SIGTERM if patient() else signal.SIGINT)
            for member in self.members:
                member.process.wait(timeout=60)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            pass
        finally:
            for member in self.members:
                member.process.kill()
                member.process.wait()
                self._last_words(member)
