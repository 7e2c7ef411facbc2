"""Run a plan in several processes of this machine: one a GPU, or `--jobs N`."""

from __future__ import annotations

import os

import torch

from lgbench.launcher import Launcher, Outcome
from lgbench.launchers._crew import Crew
from lgbench.plan.config import RunConfig
from lgbench.run.prepare import Prepared
from lgbench.run.progress import Progress


class Processes(Launcher):
    """Processes that share the results folder; one that dies is replaced, and its training goes on."""

    uses = frozenset({"jobs", "cell_timeout"})

    def launch(self, config: RunConfig, prepared: Prepared, progress: Progress) -> Outcome:
        """Run every cell that is not finished.

        Without `--jobs` there is one process a GPU, or one a core. On a CPU the cores are shared out evenly
        unless `OMP_NUM_THREADS` is set; bits of results depend on the number of threads.
        """
        gpus = torch.cuda.device_count() if prepared.device.type == "cuda" else 0
        return Crew(config, prepared, progress, config.jobs or gpus or len(os.sched_getaffinity(0))).run()
