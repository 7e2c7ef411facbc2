"""What of a plan can begin: tasks whose data are there, and cells that it really has."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from rich.console import Console

from lgbench.errors import UserError
from lgbench.plan.cells import Cell, load_task
from lgbench.plan.config import RunConfig
from lgbench.plan.params import PluginRequest, resolve
from lgbench.plugins.registry import METHODS, TASKS
from lgbench.run.failures import ANY, one_line
from lgbench.safe_text import for_rich
from lgbench.task import Task


def make_tasks(
    requests: Iterable[PluginRequest], console: Console
) -> tuple[list[tuple[str, Task]], list[str]]:
    """Tasks by name, without data yet, and the names of those whose own code fails; these are left out.

    Raises:
        UserError: no such task or parameter; or every task fails.
    """
    made, failed, line = [], [], ""
    for request in requests:
        name = TASKS.canonical(request.name)
        try:
            made.append((name, load_task(request)))
        except UserError:
            raise
        except ANY as error:
            line = f"task '{name}' fails when it is made: {one_line(error)}"
            console.print(for_rich("Left out:", "red"), for_rich(line), soft_wrap=True)
            failed.append(name)
    if not made:
        raise UserError(f"nothing to run: {line}")
    return made, failed


def usable_methods(
    requests: Iterable[PluginRequest], console: Console
) -> tuple[list[PluginRequest], list[str]]:
    """Methods that can be made, and the names of those whose own code fails; these are left out.

    Raises:
        UserError: no such method or parameter; or every method fails.
    """
    usable, failed, line = [], [], ""
    for request in requests:
        name = METHODS.canonical(request.name)
        try:
            method = METHODS.load(request.name)
            method(resolve(method, request.params, "method", request.name))
        except UserError as error:
            if METHODS.problem(name) is None:
                raise
            line = str(error)
        except ANY as error:
            line = f"method '{name}' fails when it is made: {one_line(error)}"
        else:
            usable.append(request)
            continue
        if name not in failed:
            console.print(for_rich("Left out:", "red"), for_rich(line), soft_wrap=True)
            failed.append(name)
    if not usable:
        raise UserError("nothing to run: none of the methods can be used")
    return usable, failed


def make_ready(
    named: list[tuple[str, Task]], device: torch.device, config: RunConfig, console: Console
) -> tuple[list[tuple[str, Task]], list[str]]:
    """Tasks with their data, and the names of those that cannot have them; these are left out with a line.

    Raises:
        UserError: no task can be prepared.
    """
    ready, unready, line = [], [], ""
    for name, task in named:
        try:
            task.prepare(device, config.data_dir)
        except UserError as error:
            if len(named) == 1:
                raise
            line = f"task '{name}': {error}"
        except ANY as error:
            line = f"task '{name}' fails while its data are prepared: {one_line(error)}"
        else:
            ready.append((name, task))
            continue
        console.print(for_rich("Left out:", "red"), for_rich(line), soft_wrap=True)
        unready.append(name)
    if not ready:
        raise UserError(f"nothing to run: {line}")
    return ready, unready


def check_forced(beginnings: Iterable[str], cells: Iterable[Cell]) -> None:
    """Refuse names of cells that this plan does not have."""
    keys = [cell.key for cell in cells]
    for beginning in beginnings:
        if len(beginning) < 4 or not any(key.startswith(beginning) for key in keys):
            raise UserError(
                f"--force-cells {beginning}: no cell of this plan; give 4 characters of its name or more, as "
                "--dry-run and the column cell have it"
            )
