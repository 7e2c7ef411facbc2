"""The contract of a launcher: where the trainings and cells of a plan run.

    class Elsewhere(Launcher):
        def launch(self, config, prepared, progress):
            …  give a `Job` to `lgbench.launchers._worker.carry_out` in another process, wherever you like
            return Outcome(finished=…)

A launcher gets a plan and says how it ended. What runs elsewhere gets a `Job`, which is plain data, and
answers through the results folder alone: rows that appear there are the only news. Whatever carries out a
job shares the folder by leases (`lgbench.store.leases`), so two launchers never do the same thing twice.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict

from lgbench.errors import UserError

if TYPE_CHECKING:
    from lgbench.plan.cells import Cell
    from lgbench.plan.config import RunConfig
    from lgbench.run.prepare import Prepared
    from lgbench.run.progress import Progress
    from lgbench.run.turns import Start


@dataclass
class Outcome:
    """How many cells ended how."""

    finished: int = 0
    """Measured since the run began, here or by another process on the same folder."""
    skipped_as_done: int = 0
    failed: list[tuple[Cell, str, str]] = field(default_factory=list)
    """Cells that ended as failed, out_of_memory or diverged: cell, status, reason."""

    def add(self, cell: Cell, status: str, reason: str) -> None:
        """Count a cell that ended; one that was skipped counts as neither."""
        if status == "ok":
            self.finished += 1
        elif status != "skipped":
            self.failed.append((cell, status, reason))


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A part of a plan for another process: plain data, picklable, no task, no tensor."""

    config: dict[str, Any]
    """The run as `RunConfig.model_dump(mode="json")`; the worker resolves the same plan from it."""
    cells: dict[str, tuple[int, int, int] | None]
    """Which cells of the plan, and what the folder had of them, see `lgbench.run.turns.Start`."""
    weights: dict[str, tuple[int, int, int] | None]
    owner: str
    """Name of the worker in the results folder."""
    folder: str
    """Where relative paths of the run begin."""
    num_threads: int | None = None
    """Threads of one operation on a CPU; None leaves them alone."""
    only_train: bool = False
    """Leave the evaluations to others."""

    @classmethod
    def of(
        cls,
        config: RunConfig,
        start: Start,
        cells: Sequence[Cell],
        owner: str,
        *,
        num_threads: int | None = None,
        only_train: bool = False,
    ) -> Job:
        """The job of these cells."""
        keys = {cell.key for cell in cells}
        trainings = {cell.training.key for cell in cells}
        return cls(
            config=config.model_dump(mode="json"),
            cells={key: stamp for key, stamp in start.cells.items() if key in keys},
            weights={key: stamp for key, stamp in start.weights.items() if key in trainings},
            owner=owner,
            folder=os.getcwd(),
            num_threads=num_threads,
            only_train=only_train,
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class Launcher:
    """Base of every launcher. A subclass writes `launch`.

    Attributes:
        params: validated parameters.
        uses: options of `lgbench run` that mean something to it, of `jobs`, `shard` and `cell_timeout`.
    """

    class Params(BaseModel):
        """Parameters of the launcher; each field has a default, a range and a description."""

        model_config = ConfigDict(frozen=True, extra="forbid")

    version: ClassVar[int] = 1
    uses: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, params: BaseModel | None = None) -> None:
        self.params: Any = self.Params() if params is None else params

    def launch(self, config: RunConfig, prepared: Prepared, progress: Progress) -> Outcome:
        """Carry out every cell that is not finished, and say how all ended.

        Args:
            config: what was asked for.
            prepared: the resolved plan with tasks that are ready.
            progress: told what happens.

        Raises:
            UserError: the plan cannot be carried out here, or the folder cannot be written.
            KeyboardInterrupt: interrupted; trainings in progress left a resumable state.
        """
        raise NotImplementedError


OPTIONS = ("jobs", "shard", "cell_timeout")
"""Options of `lgbench run` that only some launchers use."""


def choose_launcher(config: RunConfig) -> Launcher:
    """The launcher that a run asks for.

    Raises:
        UserError: no such launcher or parameter, it lacks a package, or an option means nothing to it.
    """
    from lgbench.plan.params import parse_plugins, resolve
    from lgbench.plugins.registry import LAUNCHERS

    asked = config.launcher or ("local" if config.shard is None else "shard")
    requests = parse_plugins(asked)
    if len(requests) != 1:
        raise UserError(f"--launcher takes one launcher, e.g. processes, got '{asked}'")
    kind = LAUNCHERS.load(requests[0].name)
    for option in OPTIONS:
        if getattr(config, option) is not None and option not in kind.uses:
            usable = (name for name in LAUNCHERS.names() if not LAUNCHERS.problem(name))
            able = [name for name in usable if option in LAUNCHERS.load(name).uses]
            raise UserError(
                f"--{option.replace('_', '-')} has no effect with --launcher {requests[0].name}; "
                f"it has with {', '.join(able)}"
            )
    return kind(resolve(kind, requests[0].params, "launcher", requests[0].name))
