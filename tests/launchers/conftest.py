"""Plans that are carried out by processes of their own, and what must be equal afterwards."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow.compute as pc
import pytest

from lgbench.store import read

HERE = Path(__file__).parent
TIMES = {
    "created_at", "environment", "commit", "calibration_wall_s", "train_wall_s", "train_tokens_per_s",
    "eval_wall_s", "eval_tokens_per_s", "warm_tokens_per_s", "peak_bytes",
}  # fmt: skip
"""Columns that may differ between two runs of one plan: times, dates, environment."""


class Plan:
    """`lgbench run` on the toy task in processes of its own, on one thread each."""

    def __init__(self, folder, options):
        self.folder, self.options = folder, options
        self.notes = folder / "notes"
        self.environment = {
            **os.environ, "PYTHONPATH": str(HERE.parent.parent), "LGBENCH_TEST_NOTES": str(self.notes),
            "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
        }  # fmt: skip

    def start(self, root, *more):
        """A running process; its output is text."""
        plugins = [HERE / "noted.py", *sorted((HERE.parent / "toys").glob("toy_*.py"))]
        command = [
            sys.executable, "-m", "lgbench", "run", "--task", "toy_average", "--preset", "smoke",
            "--device", "cpu", *(word for path in plugins for word in ("--plugin", str(path))),
            "--results", str(self.folder / root), *self.options, *more,
        ]  # fmt: skip
        return subprocess.Popen(
            command, env=self.environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def run(self, root, *more, code=0):
        """What it printed; the exit status must be `code`."""
        process = self.start(root, *more)
        said, _ = process.communicate(timeout=600)
        assert process.returncode == code, said
        return said

    def noted(self, kind="step"):
        """How often each training step was made, as (variant, seed, step)."""
        lines = self.notes.read_text().splitlines() if self.notes.exists() else []
        words = (line.split() for line in lines)
        return Counter(tuple(map(int, word[1:-1])) for word in words if word[0] == kind)

    def same_rows(self, one, other):
        """Two results folders have equal rows, bit by bit, but for times, dates and environment."""
        first, second = (_rows(self.folder / root) for root in (one, other))
        return first.num_rows > 0 and first.equals(second)

    def leftovers(self, root):
        """Files that no finished plan has: temporary ones, resumable states, leases, damaged ones."""
        return [
            path for path in (self.folder / root).rglob("*")
            if path.name.startswith((".", "resume")) or path.suffix == ".damaged" or "leases" in path.parts
        ]  # fmt: skip


def _rows(root):
    reading = read([root])
    assert reading.unreadable == {}
    table = reading.table.drop_columns(sorted(TIMES))
    keys = ("cell", "metric", "axis", "eval_length", "num_queries")
    return table.take(pc.sort_indices(table, [(key, "ascending") for key in keys]))


@pytest.fixture
def plan(tmp_path):
    """`plan("--method", "vanilla")` is a plan with these options."""
    return lambda *options: Plan(tmp_path, options)
