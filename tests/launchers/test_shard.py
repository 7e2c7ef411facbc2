"""A plan in parts, each on a machine of its own: the parts are the plan, and share no training."""

import os
import subprocess

import pytest
from typer.testing import CliRunner

from lgbench.cli import app
from lgbench.errors import UserError
from lgbench.launchers.shard import Shard
from lgbench.plan.config import RunConfig
from lgbench.plan.slurm import slurm_script
from lgbench.run.turns import split

SMALL = ("--eval-lengths", "1,16", "--query-grid", "1", "--train-steps", "2")


@pytest.mark.parametrize("parts", [1, 2, 3, 8])
def test_every_cell_is_in_one_part_and_cells_of_one_training_stay_together(toy_cells, parts):
    cells = toy_cells("vanilla,toy_shrink[factor=[0.5,0.25]],prepended,truncated", seeds=range(4))
    found = split(cells, parts)
    assert sorted(cell.key for part in found for cell in part) == sorted(cell.key for cell in cells)
    homes = [{cell.training.key for cell in part} for part in found]
    assert sum(map(len, homes)) == len(set.union(*homes))


def test_parts_do_not_depend_on_the_order_of_the_plan_and_are_of_similar_size(toy_cells):
    cells = toy_cells("vanilla,toy_shrink,prepended,truncated", seeds=range(6))
    one, other = split(cells, 3), split(cells[::-1], 3)
    assert [{c.key for c in part} for part in one] == [{c.key for c in part} for part in other]
    assert max(map(len, one)) - min(map(len, one)) <= 2


@pytest.mark.parametrize(
    ("shard", "message"),
    [(None, "which part of the plan, e.g. --shard 2/8"), ("9/8", "counted from 1/8 to 8/8")],
)
def test_a_part_that_does_not_exist_is_an_error(shard, message):
    with pytest.raises(UserError, match=message):
        Shard().launch(RunConfig(shard=shard), None, None)


def test_the_tasks_of_a_slurm_array_carry_out_the_plan_together(plan):
    """The script is run by bash, as SLURM would run it, with its environment variable."""
    shared = plan("--method", "vanilla,toy_shrink,noted", *SMALL)
    shared.run("whole")
    script = shared.run("parts", "--emit", "slurm", "--jobs", "2")
    assert "#SBATCH --array=1-2" in script and "gpu" not in script
    assert "#SBATCH --signal=B:TERM@120" in script, "which leaves more time to save than Ctrl-C does"
    counts = []
    for task in ("1", "2"):
        environment = shared.environment | {"SLURM_ARRAY_TASK_ID": task}
        subprocess.run(["bash"], input=script, env=environment, text=True, check=True, capture_output=True)
        counts.append(len(list((shared.folder / "parts").rglob("*.parquet"))))
    assert 0 < counts[0] < counts[1] == 3
    assert shared.same_rows("whole", "parts")


def test_a_script_keeps_what_was_typed_quoted_for_the_shell():
    options = {
        "method": ["vanilla", "truncated[low=512]"],
        "seeds": 3,
        "jobs": 4,
        "force": False,
        "data": "a b",
    }
    script = slurm_script(None, options)
    [command] = [line for line in script.splitlines() if line.startswith("exec ")]
    assert "--method vanilla --method 'truncated[low=512]' --seeds 3 --data 'a b'" in command
    assert command.endswith('--shard "$SLURM_ARRAY_TASK_ID/4"')
    assert f"cd {os.getcwd()}" in script and "#SBATCH --gres=gpu:1" in script


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--emit", "slurm"], "needs the number of array tasks, e.g. --emit slurm --jobs 8"),
        (["--emit", "pbs"], "--emit: Input should be 'slurm', got 'pbs'"),
    ],
)
def test_a_script_that_cannot_be_written_is_one_line(words, message):
    result = CliRunner().invoke(app, ["run", "--task", "passkey", *words])
    assert result.exit_code == 2 and message in result.output
