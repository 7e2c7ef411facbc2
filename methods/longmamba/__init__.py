"""Let channels that remember everything see only tokens with large time steps, as many as in training.

    global channels     those whose state survives a whole training-length sequence: τ > c_thr
    Δ' = Δ 1[Δ > θ(L)]  in those channels; Δ = 0 leaves the state untouched, so the token is not there

θ(L) is where the largest Δ of a sequence of length L, profile stretched from L_train, add up to their sum
over L_train. Source: Ye et al., "LongMamba" (arXiv:2504.16053), variant `dt_thre`. Survival is that of the
release on Mamba-2, τ = exp(A Σ_t Δ_t) of each head, and on Mamba that of its earlier code, τ = Π_t mean_n
exp(Δ_t A_n). `protocol=as_released` has the numbers of the same two: statistics over 100 segments of 2,000
tokens, profiles stretched without aligned corners, no filter below 3,000 tokens nor on generated ones, c_thr
1e-30 on Mamba and 0.05 on Mamba-2. It is not for tasks whose lengths are no tokens. Not the fine-tune of the
same name.
"""

from __future__ import annotations

import math

import torch
from lgbench.methods.longmamba.intervention import Filtered
from lgbench.methods.longmamba.params import (
    LEAST_SURVIVAL,
    RELEASED_FROM,
    RELEASED_ON_MAMBA2,
    RELEASED_TRAIN_LENGTH,
    LongMambaParams,
)
from lgbench.methods.longmamba.statistics import Statistics
from torch import Tensor

from lgbench.backbones.mamba2 import Mamba2
from lgbench.errors import UserError
from lgbench.intervention import Composed
from lgbench.method import Method, ScanIntervention
from lgbench.models.model import Model
from lgbench.run.calibrate import CalibrationData
from lgbench.task import Recipe, Task

TABLE = (1, 1.5, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 10, 12, 15, 18, 22, 27, 32, 40, 48, 60, 72, 84, 96)
"""Lengths of the threshold table as multiples of L_train: the released 2K to 192K at L_train = 2K."""


class LongMamba(Method):
    """Trains like vanilla; a pass over training items sets the thresholds; acts beyond L_train alone."""

    Params = LongMambaParams
    released_version = 2
    trains_like = "vanilla"
    prefix_exact = False
    needs_length = True
    calibration_free = frozenset({"strength", "c_thr", "table_up_to"})

    @property
    def protocol(self) -> str:
        """See `Params`."""
        return self.params.protocol

    def unsupported(self, task: Task) -> str | None:
        """As released, its lengths are tokens."""
        if self.protocol == "clean" or task.length_unit == "tokens":
            return None
        return (
            f"longmamba's released numbers, {RELEASED_TRAIN_LENGTH:,} and {RELEASED_FROM:,}, are tokens, "
            f"lengths of this task are {task.length_unit}; use protocol=clean"
        )

    def check(self, recipe: Recipe, backbone: str) -> None:
        """Refuse lengths beyond the table; the released code takes its last entry for them."""
        if self.protocol == "as_released":
            return
        end = round(self.params.table_up_to * recipe.train_length)
        if recipe.eval_lengths[-1] > end:
            raise UserError(
                f"longmamba: the threshold table ends at {end} tokens ({self.params.table_up_to:g} times "
                f"L_train), but {recipe.eval_lengths[-1]} are asked for. Raise table_up_to."
            )

    def calibration_length(self, length: int, train_length: int) -> int | None:
        """The nearest length of the table; None where nothing is filtered."""
        if not self.params.acts(length, train_length):
            return None
        table = self._table(self.params.profile or train_length)
        return min(table, key=lambda known: abs(known - length))

    assumed_length = calibration_length

    def drawn_lengths(self, fitted_at: int, train_length: int) -> tuple[int, ...]:
        """One, whatever the threshold is for."""
        return (self.params.profile or train_length,)

    def calibrate(self, model: Model, data: CalibrationData, length: int) -> dict[str, Tensor]:
        """Threshold and logarithm of the survival of every channel, float32 `(num_layers, channels)` each."""
        (profile,) = self.drawn_lengths(length, data.train_length)
        batch = data.draw("calibration", self.params.items, profile)
        tokens = next(iter(batch.context.values())).shape[1]  # a length may count documents
        seen = Statistics(round(length * tokens / profile), tokens, self.params)
        undisturbed = model.intervention
        model.intervention = Composed([undisturbed, seen])
        try:
            data.loss(model, batch, {})
        finally:
            model.intervention = undisturbed
        threshold, log_survival = seen.result()
        found = {"timestep_threshold": threshold, "timestep_log_survival": log_survival}
        if self.protocol == "as_released":
            least = RELEASED_ON_MAMBA2 if isinstance(model.backbone, Mamba2) else LEAST_SURVIVAL
            found["timestep_least_log_survival"] = torch.tensor(math.log(least))
        return found

    def intervention(self, train_length: int, d_model: int) -> ScanIntervention:
        """The filter on Δ."""
        return Filtered(self.params, train_length)

    def _table(self, train_length: int) -> list[int]:
        end = self.params.table_up_to
        return [round(m * train_length) for m in (*(m for m in TABLE if m < end), end)]
