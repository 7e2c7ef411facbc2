"""Wait for ever in one phase of a run: what a signal must end all the same.

LGBENCH_TEST_STUCK names the phase, and "deaf" after it a plugin that catches every exception.
LGBENCH_TEST_HERE is a file that says that the phase was reached.
"""

import os
import time
from pathlib import Path

import torch

from lgbench.method import Method, ScanIntervention
from lgbench.plugins.registry import TASKS

Task = TASKS.load("toy_average")  # by this name the file is known to define a task


def wait_in(phase):
    """Does not come back if this is the phase."""
    asked, _, how = os.environ["LGBENCH_TEST_STUCK"].partition(" ")
    if asked != phase:
        return
    Path(os.environ["LGBENCH_TEST_HERE"]).touch()
    if how == "computing":
        big = torch.ones(12000, 12000)
        torch.mm(big, big)
    while True:
        try:
            time.sleep(0.1)
        except BaseException:
            if how != "deaf":
                raise


class StuckTask(Task):
    """The toy task, whose data never come."""

    def prepare(self, device, data_dir=None):
        """Waits."""
        super().prepare(device, data_dir)
        wait_in("preparation")


class Stuck(Method):
    """Vanilla, with something to fit."""

    prefix_exact = False

    def intervention(self, train_length, d_model):
        """Waits in sequences."""
        return _Waiting()

    def calibration_length(self, length, train_length):
        """Each length."""
        return length if os.environ["LGBENCH_TEST_STUCK"].startswith("calibration") else None

    def calibrate(self, model, data, length):
        """Waits."""
        wait_in("calibration")
        return {}


class _Waiting(ScanIntervention):
    def sequence(self, tokens):
        wait_in("training" if torch.is_grad_enabled() else "evaluation")
        return tokens
