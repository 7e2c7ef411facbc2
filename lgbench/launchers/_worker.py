"""Carry out a job of another process: one line of JSON on the input, answers through the results folder.

The input stays open for as long as the other process lives. When it closes, this one saves its trainings and
ends, as after SIGTERM.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from functools import lru_cache
from typing import Any

import torch

from lgbench.errors import UserError
from lgbench.interrupt import watched
from lgbench.launcher import Job, Outcome
from lgbench.launchers.local import ItemsOf, run_plan
from lgbench.plan.config import RunConfig
from lgbench.run.prepare import Prepared, prepare
from lgbench.run.progress import Progress
from lgbench.run.turns import Start
from lgbench.safe_text import plain, plain_console
from lgbench.store.leases import Leases


def carry_out(job: Job) -> Outcome:
    """Do a job in this process; what was prepared for the last one is used again if it is the same run.

    Raises:
        UserError: this process resolves another plan, because data or plugins are others here.
        KeyboardInterrupt: interrupted; trainings in progress left a resumable state.
    """
    try:
        os.chdir(job.folder)
    except OSError as error:
        raise UserError(f"{os.uname().nodename} has no folder {job.folder}: {error.strerror}") from None
    if job.num_threads is not None:
        torch.set_num_threads(job.num_threads)
    prepared, items = _prepared(json.dumps(job.config))
    config = RunConfig.model_validate(job.config)
    cells = [cell for cell in prepared.cells if cell.key in job.cells]
    if len(cells) != len(job.cells):
        raise UserError(
            f"a worker on {os.uname().nodename} finds {len(cells)} of {len(job.cells)} cells: "
            "its data, plugins or versions are not those of the process that started it"
        )
    return run_plan(
        cells,
        prepared.tasks,
        prepared.store,
        Progress(plain_console(quiet=True)),
        scan_backend=config.scan_backend,
        save_every_s=config.save_every,
        side_by_side=config.side_by_side if prepared.device.type == "cuda" else 1,
        leases=Leases(prepared.store.root, job.owner),
        start=Start(_stamps(job.cells), _stamps(job.weights)),
        items=items,
        only_train=job.only_train,
    )


@lru_cache(maxsize=1)
def _prepared(config: str) -> tuple[Prepared, ItemsOf]:
    """The plan with its tasks, and room for their evaluation items."""
    return prepare(RunConfig.model_validate_json(config), plain_console(quiet=True)), {}


def _stamps(found: dict[str, Any]) -> dict[str, tuple[int, int, int] | None]:
    """JSON has lists where there were tuples."""
    return {key: None if stamp is None else (stamp[0], stamp[1], stamp[2]) for key, stamp in found.items()}


def _end_with_the_input() -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)  # which leaves it more time to save than Ctrl-C


def main() -> int:
    """Exit status: 0 done, 2 a mistake of the user's in one line on standard error, 130 interrupted."""
    # what the first process ignores (Ctrl-C in the background, hang-ups) would be ignored here, too
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        job = Job(**json.loads(sys.stdin.readline()))
        threading.Thread(target=_end_with_the_input, daemon=True).start()
        with watched():
            carry_out(job)
    except UserError as error:
        print(plain(error), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
