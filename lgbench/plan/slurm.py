"""Write the script of a SLURM array that carries out a run, a part of the plan a task."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lgbench.errors import UserError

_SCRIPT = """#!/bin/bash
# Submit with: sbatch THIS_FILE    Submitted again, it goes on where it was interrupted.
#SBATCH --job-name=lgbench
#SBATCH --array=1-{parts}
#SBATCH --output=lgbench-%A_%a.log
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
{resources}
cd {folder} || exit 1
exec {command} --shard "$SLURM_ARRAY_TASK_ID/{parts}"
"""


def slurm_script(config: Path | None, options: Mapping[str, Any]) -> str:
    """Return a bash script for `sbatch`; two minutes before the limit of time every task saves and ends.

    Args:
        config: the YAML file of the run, if any.
        options: of the command line, by field of `RunConfig`; None and empty lists mean: not given.

    Raises:
        UserError: the number of parts is missing.
    """
    parts = options.get("jobs")
    if not parts:
        raise UserError("--emit slurm needs the number of array tasks, e.g. --emit slurm --jobs 8")
    kept = {
        name: value for name, value in options.items() if name not in ("jobs", "launcher", "shard", "emit")
    }
    words = [sys.executable, "-m", "lgbench", "run", *_words({"config": config, **kept})]
    gpu = options.get("device") != "cpu"
    return _SCRIPT.format(
        parts=parts,
        resources="#SBATCH --gres=gpu:1" if gpu else "#SBATCH --cpus-per-task=1",
        folder=shlex.quote(os.getcwd()),
        command=shlex.join(words),
    )


def _words(options: Mapping[str, Any]) -> list[str]:
    """Options as they are typed; a list is an option given several times."""
    words = []
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            words += [option] if value else []
        else:
            several = value if isinstance(value, (list, tuple)) else [value]
            words += [word for one in several if one is not None for word in (option, str(one))]
    return words
