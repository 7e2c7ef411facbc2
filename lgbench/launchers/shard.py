"""Run one part of a plan in this process, `--shard 2/8`: for the tasks of a SLURM array and the like.

`lgbench run … --emit slurm --jobs 8` prints the script of the array.
"""

from __future__ import annotations

import re
from dataclasses import replace

from lgbench.errors import UserError
from lgbench.launcher import Launcher, Outcome
from lgbench.launchers.local import Local
from lgbench.plan.config import RunConfig
from lgbench.run.prepare import Prepared
from lgbench.run.progress import Progress
from lgbench.run.turns import split


class Shard(Launcher):
    """Every machine takes the same shares of the same plan; cells of one training stay together."""

    uses = frozenset({"shard", "cell_timeout"})

    def launch(self, config: RunConfig, prepared: Prepared, progress: Progress) -> Outcome:
        """Run the cells of one part that are not finished.

        Raises:
            UserError: no part is named, or there is none of that number.
        """
        if config.shard is None:
            raise UserError("--launcher shard needs to know which part of the plan, e.g. --shard 2/8")
        if not re.fullmatch(r"[1-9]\d*/[1-9]\d*", config.shard):
            raise UserError(f"--shard takes a part and the number of parts, e.g. 2/8, got '{config.shard}'")
        part, parts = map(int, config.shard.split("/"))
        if part > parts:
            raise UserError(f"--shard {config.shard}: parts are counted from 1/{parts} to {parts}/{parts}")
        mine = split(prepared.cells, parts)[part - 1]
        return Local().launch(config, replace(prepared, cells=mine), progress)
