"""A method that notes every training step and every evaluated sequence in a file, and can hang."""

import os
import time

import torch
from pydantic import Field

from lgbench.method import Method, ScanIntervention


class Noted(Method):
    """Trains like nothing else, so that every variant is a training of its own."""

    class Params(Method.Params):
        variant: int = Field(0, ge=0, description="makes another training")
        hang: str = Field("", description="train or evaluation: where it stands still")
        pause_s: float = Field(0.0, ge=0, description="seconds that a training step takes longer")

    def intervention(self, train_length, d_model):
        """Changes nothing."""
        return _Notes(self.params)


class _Notes(ScanIntervention):
    def __init__(self, params):
        self.params = params

    def begin_step(self, seed, step, steps):
        note(f"step {self.params.variant} {seed} {step}")
        time.sleep(self.params.pause_s)

    def sequence(self, tokens):
        here = "train" if torch.is_grad_enabled() else "evaluation"
        if self.params.hang == here:
            time.sleep(600)
        return tokens


def note(line):
    """Append a line at once."""
    path = os.environ.get("LGBENCH_TEST_NOTES")
    if path:
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(handle, f"{line} {os.getpid()}\n".encode())
        os.close(handle)
