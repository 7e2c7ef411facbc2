"""Estimate what runs would cost that are not in the store, from the seconds in rows that are alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lgbench.claims.cells import Cells
from lgbench.claims.model import Model

COLUMNS = ["task", "method", "label", "backbone", "preset", "status", "device", "cell", "training", "step"]
COLUMNS += ["num_layers", "train_length", "train_wall_s", "eval_wall_s", "calibration_wall_s"]
"""What prices are read from."""
_NOTHING = pd.DataFrame(columns=COLUMNS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What is known of the price of some runs.

    Attributes:
        minutes: of the GPUs that made the rows; what has no estimate is not in it.
        unknown: models and tasks without an estimate, in words.
    """

    minutes: float
    unknown: tuple[str, ...]


class Prices:
    """Seconds of trainings and evaluations, medians over the rows that a GPU made.

    A training: seconds for a step and layer, of the trainings of the task and backbone whose L_train is
    nearest, times steps, layers and the ratio of lengths. An evaluation, calibration included: that of a cell
    of the task and method; of vanilla if the method has none there.
    """

    def __init__(self, cells: Cells) -> None:
        self.cells = cells
        rows = cells.rows[COLUMNS]
        rows = rows[(rows["status"] == "ok") & ~rows["device"].str.lower().str.contains("cpu")]
        self._rows = dict(tuple(rows.groupby(["task", "preset"])))
        self._trainings: dict[Model, float | None] = {}
        self._evaluations: dict[Model, float | None] = {}

    def cost(self, missing: Sequence[tuple[Model, int]], *, anew: bool = False) -> Cost:
        """Add up trainings, each once, and evaluations that models and seeds need beyond the store.

        Args:
            missing: models and seeds.
            anew: train also what the store has.
        """
        known_to_be = {(*model.training(), seed) for model, _ in missing for seed in self._trained(model)}
        trained = set() if anew else known_to_be
        seconds, unknown = 0.0, []
        for model, seed in missing:
            training = (*model.training(), seed)
            parts = [self.evaluation(model)] + ([] if training in trained else [self.training(model)])
            trained.add(training)
            known = [part for part in parts if part is not None]
            if len(known) == len(parts):
                seconds += sum(known)
            else:
                unknown.append(f"{model.task}, {model}")
        return Cost(minutes=seconds / 60, unknown=tuple(dict.fromkeys(unknown)))

    def _trained(self, model: Model) -> set[int]:
        """Seeds whose weights were trained, for this method or for vanilla where it uses vanilla's."""
        seeds = set(self.cells.seeds(model))
        if not model.own_training:
            seeds |= set(self.cells.seeds(model.change(method="vanilla")))
        return seeds

    def training(self, model: Model) -> float | None:
        """Seconds of one training, None without any like it."""
        if model not in self._trainings:
            self._trainings[model] = self._price_training(model)
        return self._trainings[model]

    def evaluation(self, model: Model) -> float | None:
        """Seconds of one evaluation with its calibration, None if no method has one."""
        if model not in self._evaluations:
            self._evaluations[model] = self._price_evaluation(model)
        return self._evaluations[model]

    def _price_training(self, model: Model) -> float | None:
        rows = self._rows.get((model.task, model.preset), _NOTHING)
        rows = rows[(rows["backbone"] == model.backbone) & (rows["train_wall_s"] > 0)]
        if rows.empty:
            return None
        alike = rows[rows["label"] == model.method]
        rows = (rows if alike.empty else alike).drop_duplicates("training")
        octaves = np.log2(rows["train_length"] / model.train_length).abs()
        near = rows[octaves == octaves.min()]
        rate = float((near["train_wall_s"] / (near["step"] * near["num_layers"])).median())
        usual = near.iloc[0]
        steps, layers = model.train_steps or usual["step"], model.num_layers or usual["num_layers"]
        return float(rate * steps * layers * model.train_length / usual["train_length"])

    def _price_evaluation(self, model: Model) -> float | None:
        rows = self._rows.get((model.task, model.preset), _NOTHING)
        for name in (_name(model), "vanilla"):
            mine = rows[rows["method"] == name].groupby("cell")
            if len(mine):
                calibrated = mine["calibration_wall_s"].sum()
                return float((mine["eval_wall_s"].max() + calibrated).median())
        return None


def _name(model: Model) -> str:
    return model.method.split("[")[0]
