"""Keep how a training went: its loss by step, a small file beside its weights.

RESULTS/checkpoints/TRAINING/losses.json     [[step, mean loss of the steps since the one before], …]
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from lgbench.store.files import atomic_file

NAME = "losses.json"


def write_losses(folder: Path, history: Sequence[tuple[int, float]]) -> Path:
    """Write the file of a training, atomically; replaces an earlier one.

    Args:
        folder: RESULTS/checkpoints/TRAINING.
        history: step and loss, steps increasing.

    Raises:
        CannotWrite: the folder cannot be written or the disk is full.
    """
    short = [[int(step), float(f"{loss:.6g}")] for step, loss in history]
    with atomic_file(folder / NAME) as temporary:
        temporary.write_text(json.dumps(short, separators=(",", ":")) + "\n", encoding="utf-8")
    return folder / NAME


def read_losses(roots: Sequence[Path], training: str) -> list[tuple[int, float]]:
    """Step and loss of a training, from the first results folder that has them; empty without.

    Raises:
        ValueError: a file is no list of pairs of a step and a loss.
    """
    for root in roots:
        path = Path(root) / "checkpoints" / training / NAME
        if path.is_file():
            return [(int(step), float(loss)) for step, loss in json.loads(path.read_text(encoding="utf-8"))
                    if math.isfinite(loss)]  # fmt: skip
    return []
