"""Slow the clock: shrink every time step, or every decay rate, by L_train / L once a sequence is longer.

    Δ' = (L_train / L)^power Δ      or      A' = (L_train / L)^power A

Nothing is fitted: the control for every learned scaling. Answers at a prefix depend on the whole length, so
each length needs its own pass. Source: our own; position interpolation (Chen et al., arXiv:2306.15595)
carried over to time steps.
"""

from typing import Literal

from pydantic import Field
from torch import Tensor

from lgbench.method import Method, Mode, ScanIntervention


class SlowClock(Method):
    """Vanilla up to the training length; beyond, the sum of the time steps stays what it was there."""

    class Params(Method.Params):
        on: Literal["delta", "A"] = Field("delta", description="what is scaled: time steps or decay rates")
        power: float = Field(1.0, ge=0, le=1, description="0 changes nothing, 1 keeps the sum of the steps")

    trains_like = "vanilla"
    prefix_exact = False
    needs_length = True

    def intervention(self, train_length: int, d_model: int) -> ScanIntervention:
        """One factor for all layers, from the announced length."""
        return (_SlowSteps if self.params.on == "delta" else _SlowDecay)(train_length, self.params.power)


class _Slow(ScanIntervention):
    def __init__(self, train_length: int, power: float) -> None:
        self.train_length, self.power, self.factor = train_length, power, 1.0

    def begin(self, mode: Mode, length: int | Tensor, num_protected: int) -> None:
        """Find the factor; rest where it is 1."""
        self.factor = min(1.0, self.train_length / length) ** self.power
        self.resting = self.factor == 1


class _SlowSteps(_Slow):
    def timestep(self, layer: int, delta: Tensor) -> Tensor:
        """Δ `(batch, length, d_inner)`, smaller."""
        return delta * self.factor


class _SlowDecay(_Slow):
    def transition(self, layer: int, A: Tensor) -> Tensor:
        """A `(d_inner, d_state)`, nearer to zero."""
        return A * self.factor
