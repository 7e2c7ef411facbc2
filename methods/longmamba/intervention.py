"""The filter on Δ."""

from __future__ import annotations

import math

import torch
from lgbench.methods.longmamba.params import LEAST_SURVIVAL, LongMambaParams
from torch import Tensor

from lgbench.method import Mode, ScanIntervention


class Filtered(ScanIntervention):
    """Lets a global channel see the tokens with large time steps alone.

    Args:
        params: of the method.
        train_length: L_train, tokens.
    """

    def __init__(self, params: LongMambaParams, train_length: int) -> None:
        self.params, self.train_length = params, train_length
        self.apply_to_generated = params.protocol == "clean"
        self.use({})

    def use(self, fitted: dict[str, Tensor]) -> None:
        """Take thresholds and survivals; without any, rest."""
        self.threshold = fitted.get("timestep_threshold")
        if self.threshold is not None:
            survives = fitted["timestep_log_survival"] > self._least(fitted)
            self.threshold = torch.where(survives, self.params.strength * self.threshold, -1.0)
            if not (self.threshold > 0).any():  # time steps are positive: nothing is filtered
                self.threshold = None

    def begin(self, mode: Mode, length: int | Tensor, num_protected: int) -> None:
        """Rest within the training length."""
        self.resting = self.threshold is None or not self.params.acts(length, self.train_length)

    def timestep(self, layer: int, delta: Tensor) -> Tensor:
        """Δ `(batch, length, channels)`, zero where a global channel does not let the token in."""
        return delta * (delta > self.threshold[layer].to(delta.device))

    def _least(self, fitted: dict[str, Tensor]) -> float | Tensor:
        """Logarithm of the least survival of a global channel."""
        if self.params.c_thr is not None:
            return math.log(self.params.c_thr) if self.params.c_thr > 0 else -math.inf
        if "timestep_least_log_survival" in fitted:
            return fitted["timestep_least_log_survival"]
        return math.log(LEAST_SURVIVAL)
