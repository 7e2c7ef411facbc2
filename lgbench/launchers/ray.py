"""Run a plan on a Ray cluster: trainings and cells are tasks, which may share a GPU in fractions.

All nodes need the results folder under one path (NFS or the like), the data, and lgbench. A task that was
lost with its node is tried again elsewhere after a growing pause; a training goes on from what it saved.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from pydantic import Field
from ray.exceptions import RayError, RayTaskError

import lgbench
from lgbench.errors import UserError
from lgbench.interrupt import finishing
from lgbench.launcher import Job, Launcher, Outcome
from lgbench.launchers._worker import carry_out
from lgbench.plan.cells import Cell
from lgbench.plan.config import RunConfig
from lgbench.run.prepare import Prepared
from lgbench.run.progress import Progress
from lgbench.run.turns import begin
from lgbench.run.watch import Watch
from lgbench.store.leases import Leases, new_owner

REQUIRES = ("ray",)
LOOK_S = 0.2
"""Seconds between two looks at tasks and folder."""


class Ray(Launcher):
    """A task for every training, then one for each of its cells; whatever unlocks most comes first."""

    class Params(Launcher.Params):
        address: str = Field("", description="of a running cluster, or auto; empty starts one here")
        num_cpus: float = Field(1.0, ge=0, le=1024, description="CPUs that a task reserves")
        num_gpus: float = Field(1.0, ge=0, le=64, description="GPUs that a task reserves; none on a CPU run")
        retries: int = Field(
            5,
            ge=0,
            le=100,
            description="times that a task is tried again which saves nothing before it is lost",
        )

    uses = frozenset({"cell_timeout"})

    def launch(self, config: RunConfig, prepared: Prepared, progress: Progress) -> Outcome:
        """Run every cell that is not finished.

        Raises:
            UserError: there is no such cluster, or a node lacks what the plan needs.
            KeyboardInterrupt: after the tasks have saved their trainings.
        """
        with Leases(prepared.store.root) as own, progress.also(own.tell):
            own.tell({"event": "watching"})
            return self._run(config, prepared, progress)

    def _run(self, config: RunConfig, prepared: Prepared, progress: Progress) -> Outcome:
        start = begin(prepared.cells, prepared.store, progress, config.forced)
        watch = Watch(prepared, start, progress)
        if not watch.left:
            return watch.outcome
        here = str(Path(lgbench.__file__).parent.parent)
        path = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
        try:
            ray.init(
                address=self.params.address or None, include_dashboard=False, log_to_driver=False,
                logging_level="error", runtime_env={"env_vars": {"PYTHONPATH": path}},
            )  # fmt: skip
        except (ConnectionError, ValueError, RuntimeError, RayError) as error:
            raise UserError(f"--launcher ray: no cluster at '{self.params.address}': {error}") from None
        try:
            return _Tasks(self.params, config, prepared, watch).run()
        finally:
            ray.shutdown()


@dataclass
class _Task:
    """A part of the plan, and how often it was lost."""

    cells: list[Cell]
    only_train: bool = False
    lost: int = 0
    not_before: float = 0.0
    owner: str = ""
    since: dict[str, float] = field(default_factory=dict)
    """When each lease that it holds was seen first, by this process's monotonic clock."""


class _Tasks:
    """The tasks of one plan, as seen by the driver."""

    def __init__(self, params: Any, config: RunConfig, prepared: Prepared, watch: Watch) -> None:
        self.params, self.config, self.prepared, self.watch = params, config, prepared, watch
        self.remote = ray.remote(
            num_cpus=params.num_cpus, max_retries=0,
            num_gpus=params.num_gpus if prepared.device.type == "cuda" else 0,
        )(carry_out)  # fmt: skip
        self.running: dict[ray.ObjectRef[Any], _Task] = {}
        self.waiting: list[_Task] = []

    def run(self) -> Outcome:
        """Submit, wait, and submit again until every cell has ended."""
        groups: dict[str, list[Cell]] = {}
        for cell in self.watch.left.values():
            groups.setdefault(cell.training.key, []).append(cell)
        for cells in sorted(groups.values(), key=len, reverse=True):  # what unlocks most comes first
            self._submit(_Task(cells, only_train=len(cells) > 1))
        try:
            while self.running or self.waiting:
                done, _ = ray.wait(list(self.running), num_returns=1, timeout=LOOK_S)
                self.watch.look()
                for ref in done:
                    self._ended(ref)
                if self.config.cell_timeout is not None:
                    self._end_what_hangs(self.config.cell_timeout)
                for task in [task for task in self.waiting if task.not_before <= time.monotonic()]:
                    self.waiting.remove(task)
                    self._submit(task)
        except BaseException:
            with finishing():
                self._cancel()
            raise
        return self.watch.end()

    def _submit(self, task: _Task) -> None:
        task.cells = [cell for cell in task.cells if cell.key in self.watch.left]
        if task.cells:
            task.owner, task.since = new_owner(), {}
            job = Job.of(self.config, self.watch.start, task.cells, task.owner, only_train=task.only_train)
            self.running[self.remote.remote(job)] = task

    def _ended(self, ref: ray.ObjectRef[Any]) -> None:
        """A task is over: its training unlocks cells, or it is tried again, or nothing can be done."""
        task = self.running.pop(ref)
        try:
            ray.get(ref)
        except RayTaskError as error:
            if isinstance(error.cause, UserError):
                raise UserError(str(error.cause)) from None
            self._lost(task, error)
        except RayError as error:
            self._lost(task, error)
        else:
            if task.only_train:
                for cell in task.cells:
                    self._submit(_Task([cell]))

    def _lost(self, task: _Task, error: Exception) -> None:
        held = self.watch.held(task.owner)
        task.lost = max(map(self.watch.deaths, held), default=task.lost + 1)
        self.watch.progress.worker_died(type(error).__name__, held)
        if task.lost <= self.params.retries:
            task.not_before = time.monotonic() + min(0.5 * 2**task.lost, 30.0)
            self.waiting.append(task)
            return
        for cell in task.cells:
            if cell.key in self.watch.left:
                self.watch.give_up(f"cell-{cell.key}", f"its task was lost {task.lost} times: {error}")

    def _end_what_hangs(self, limit_s: float) -> None:
        for ref, task in list(self.running.items()):
            late = self.watch.late(task.owner, task.since, limit_s)
            if late:
                ray.cancel(ref, force=True)
                ray.wait([ref], timeout=30)
                del self.running[ref]
                for name in late:
                    self.watch.give_up_late(name, limit_s)
                self._submit(task)

    def _cancel(self) -> None:
        """Let the tasks save and end, as after Ctrl-C."""
        for ref in self.running:
            ray.cancel(ref, force=False)
        ray.wait(list(self.running), num_returns=len(self.running), timeout=60)
