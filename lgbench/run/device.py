"""Which device a run takes."""

import os
from collections.abc import Iterable

import torch

from lgbench.errors import UserError

SMALL_WIDTH = 256
"""Largest d_model of a model that one thread serves on a CPU."""


def choose_device(name: str) -> torch.device:
    """The device of a name; "auto" is a GPU if there is one.

    Raises:
        UserError: CUDA is asked for and not there.
    """
    if name == "cuda" and not torch.cuda.is_available():
        built = "this torch is built without CUDA" if torch.version.cuda is None else "no GPU is visible"
        raise UserError(
            f"--device cuda: {built} (torch {torch.__version__}). Use --device cpu, or see: lgbench doctor"
        )
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def choose_threads(widths: Iterable[int]) -> None:
    """Give small models one thread of the CPU.

    Sharing out matrices as small as theirs saves little on an idle machine; on a busy one every operation
    waits for its slowest thread (measured: a step takes 12 times as long with two threads on two busy cores).
    `OMP_NUM_THREADS` has the last word.

    Args:
        widths: d_model of all models of a run.
    """
    if "OMP_NUM_THREADS" not in os.environ and max(widths, default=0) <= SMALL_WIDTH:
        torch.set_num_threads(1)
