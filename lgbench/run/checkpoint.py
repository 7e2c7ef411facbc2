"""Trained weights and resumable training states on disk, each file whole or not there.

CHECKPOINTS/TRAINING/step-000001000.safetensors     weights after 1,000 steps, with settings, loss and time
CHECKPOINTS/TRAINING/resume.safetensors             weights, optimiser, random state; gone once finished
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lgbench.store import atomic_file


def weights_path(folder: Path, step: int) -> Path:
    """File of the weights after `step` optimiser steps."""
    return folder / f"step-{step:09d}.safetensors"


def resume_path(folder: Path) -> Path:
    """File of the resumable state."""
    return folder / "resume.safetensors"


def save(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write tensors and a few JSON facts to one safetensors file, atomically.

    Raises:
        UserError: the folder cannot be written or the disk is full.
    """
    whole = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    with atomic_file(path) as temporary:
        try:
            save_file(whole, temporary, metadata={"facts": json.dumps(facts)})
        except SafetensorError as error:
            raise OSError(str(error)) from error


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors on the CPU and facts; None if the file is missing or torn, which means: train again."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["facts"])  # noqa: SIM118
    except (OSError, SafetensorError):
        return None
