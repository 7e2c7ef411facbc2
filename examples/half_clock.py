"""Run every clock slower beyond the training length: shrink all time steps so that their sum stays in range.

Trains like vanilla. Answers at a prefix depend on the whole length, so each length needs its own pass.
Source: our own; position interpolation (Chen et al., arXiv:2306.15595) carried over to time steps.
"""

from pydantic import Field
from torch import Tensor

from lgbench.method import Method, ScanIntervention


class HalfClock(Method):
    """The control for every learned scaling: what does the best single constant already give?"""

    class Params(Method.Params):
        power: float = Field(0.5, ge=0, le=1, description="0 leaves the time steps alone, 1 keeps their sum")

    trains_like = "vanilla"
    prefix_exact = False

    def intervention(self, train_length: int, d_model: int) -> ScanIntervention:
        """The change of the scan for a backbone trained up to `train_length` tokens."""
        return _Scaled(train_length, self.params.power)


class _Scaled(ScanIntervention):
    def __init__(self, train_length: int, power: float) -> None:
        self.train_length, self.power, self.factor = train_length, power, 1.0

    def begin(self, mode: str, length: int, num_protected: int) -> None:
        self.factor = min(1.0, self.train_length / length) ** self.power

    def timestep(self, layer: int, delta: Tensor) -> Tensor:
        """Scale Δ, `(batch, length, d_inner)` after softplus; unchanged up to the training length."""
        return delta * self.factor
