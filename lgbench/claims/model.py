"""Name the trained models that a claim is about: which rows are theirs, and which run makes them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

SETTING = ("train_length", "train_steps", "num_layers", "d_state", "learning_rate", "lm_weight")
"""Fields that are columns of a row and options of a run; None stands for whatever the preset says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One setting of a training and one method of using it, in several seeds.

    A number that is None is the preset's in a run, and any in the store; rows of two settings that fit one
    model are refused, see `lgbench.claims.cells`.
    """

    task: str
    task_params: tuple[tuple[str, Any], ...] = ()
    """Parameters of the task that decide which rows are meant."""
    metric: str
    method: str = "vanilla"
    """As in the column `label`: with the parameters that differ from their defaults."""
    own_training: bool = False
    """Whether the method has a training of its own; others use vanilla's."""
    backbone: str = "mamba"
    preset: str = "small"
    seeds: int = 3
    """Seeds that a run of this claim makes; all in the store are read."""
    train_length: int
    train_steps: int | None = None
    num_layers: int | None = None
    d_state: int | None = None
    learning_rate: float | None = None
    lm_weight: float | None = None
    train_queries: int | None = None
    eval_lengths: tuple[int, ...] = ()
    """The grid of a run; the preset's if empty."""
    words: str = ""
    """What tells it from other models of its claim, beside method and L_train."""

    def __str__(self) -> str:
        words = (self.method, f"L_train {self.train_length:,}", self.words)
        return ", ".join(word for word in words if word)

    def change(self, **fields: Any) -> Model:
        """The same with other fields."""
        return replace(self, **fields)

    def run(self, seeds: Sequence[int]) -> dict[str, Any]:
        """The run that makes its rows in these seeds, as a mapping that `lgbench run --config` takes."""
        run: dict[str, Any] = {"task": {self.task: dict(self.task_params)} if self.task_params else self.task}
        run |= {"method": self.method, "backbone": self.backbone, "preset": self.preset}
        run |= {"first_seed": min(seeds), "seeds": max(seeds) - min(seeds) + 1}
        numbers = (*SETTING, "train_queries")
        run |= {name: value for name in numbers if (value := getattr(self, name)) is not None}
        return run | ({"eval_lengths": list(self.eval_lengths)} if self.eval_lengths else {})

    def training(self) -> tuple[Any, ...]:
        """What decides the weights, seeds aside: equal for methods that use the same ones."""
        fields = asdict(self)
        method = self.method if self.own_training else "vanilla"
        return method, self.task, self.backbone, *(fields[name] for name in (*SETTING, "train_queries"))


def plan_of(needed: Iterable[tuple[Model, int]]) -> list[dict[str, Any]]:
    """Runs that make the rows of models and seeds, in the form of `lgbench run --config`.

    Models that differ in their method alone are one run. Seeds between two that are needed are run too.
    """
    seeds: dict[Model, list[int]] = {}
    for model, seed in needed:
        seeds.setdefault(model, []).append(seed)
    runs: dict[str, dict[str, Any]] = {}
    for model, mine in seeds.items():
        run = model.run(mine)
        method = run.pop("method")
        same = runs.setdefault(json.dumps(run), {"task": run["task"], "method": []} | run)
        if method not in same["method"]:
            same["method"].append(method)
    return list(runs.values())
