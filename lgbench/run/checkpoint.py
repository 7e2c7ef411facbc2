"""Trained weights and resumable training states on disk, each file whole or not there.

CHECKPOINTS/TRAINING/step-000001000.safetensors     weights after 1,000 steps, with settings, loss and time
CHECKPOINTS/TRAINING/resume.safetensors             weights, optimiser, random state; gone once finished

A file has a seal, see `lgbench.store.seal`. A damaged one is renamed to `NAME.damaged` and made again; files
of older versions have no seal and are accepted.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lgbench.interrupt import finishing
from lgbench.safe_text import plain
from lgbench.store import atomic_file, put_aside
from lgbench.store.seal import BLANK, Damaged, file_is_sealed, seal

FACTS = {
    "step": {"scan_backend", "train_loss", "train_wall_s", "train_tokens_per_s"},
    "resume": {"step", "wall_s", "tokens", "history", "stage", "stage_steps"},
    "fit": {"tokens", "wall_s", "digests"},
}
"""Facts that are needed of each kind of file, by the first word of its name."""


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
    with finishing(), atomic_file(path) as temporary:
        try:
            save_file(whole, temporary, metadata={"facts": json.dumps(facts), "seal": BLANK})
        except SafetensorError as error:
            raise OSError(str(error)) from error
        seal(temporary)


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors on the CPU and facts; None if the file is missing or damaged, which means: make it again.

    A damaged file is named on standard error and put aside.

    Raises:
        UserError: a damaged file cannot be renamed.
    """
    try:
        return _read(path)
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        aside = put_aside(path)
        said = f"lgbench: {path} is damaged ({error}); kept as {aside.name}, made again"
        print(plain(said), file=sys.stderr)
        return None


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names and values, hex; the order does not count."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(name.encode() + content.numpy().tobytes())
    return digest.hexdigest()


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    sealed = file_is_sealed(path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        if set(metadata) != ({"facts", "seal"} if sealed else {"facts"}):
            raise Damaged("its metadata are not those that were written")
        facts = json.loads(metadata["facts"])
        kind = path.name.split(".")[0].split("-")[0]
        if not isinstance(facts, dict) or not facts.keys() >= FACTS.get(kind, set()):
            raise Damaged("its metadata lack what was written")
        return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118
