"""Trainings that differ in nothing but their number of steps share their beginning.

Until the learning rate of the shorter one falls, both take the same steps. There the longer one, the trunk,
hands its state over, and the shorter one, a branch, goes on from it as if it had been interrupted: it ends
with the weights that it would have alone, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from lgbench.intervention import ScanIntervention
from lgbench.plan.cells import Training, checkpoint_folder
from lgbench.run import checkpoint


def trunks(trainings: Iterable[Training]) -> dict[Training, Training]:
    """Branch → the longest training that begins like it, of those that are there."""
    kin: dict[Training, list[Training]] = {}
    for training in trainings:
        kin.setdefault(replace(training, recipe=replace(training.recipe, train_steps=0)), []).append(training)
    found = {}
    for alike in kin.values():
        trunk = max(alike, key=lambda training: training.recipe.train_steps)
        found |= {branch: trunk for branch in alike if branch != trunk and shared_steps(branch) > 0}
    return found


def shared_steps(branch: Training) -> int:
    """Steps that a training takes before its learning rate falls, as every longer one does."""
    return math.ceil(branch.recipe.decay_from * branch.recipe.train_steps)


def handovers(trunk: Training, trunk_of: Mapping[Training, Training], root: Path) -> dict[int, list[Path]]:
    """Step → folders of the branches that go on from there and have neither weights nor a state yet."""
    found: dict[int, list[Path]] = {}
    for branch in (branch for branch, its_trunk in trunk_of.items() if its_trunk == trunk):
        folder = checkpoint_folder(root, branch)
        there = checkpoint.weights_path(folder, branch.recipe.train_steps), checkpoint.resume_path(folder)
        if not any(path.exists() for path in there):
            found.setdefault(shared_steps(branch), []).append(folder)
    return found


def may_branch(intervention: ScanIntervention) -> bool:
    """Whether no step depends on how many there will be."""
    return type(intervention).begin_step is ScanIntervention.begin_step
