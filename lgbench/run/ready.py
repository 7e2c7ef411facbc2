"""What of a plan can begin: tasks whose data are there, and cells that it really has."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from rich.console import Console

from lgbench.errors import UserError
from lgbench.plan.cells import Cell
from lgbench.plan.config import RunConfig
from lgbench.run.failures import ANY, one_line
from lgbench.safe_text import for_rich
from lgbench.task import Task


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
