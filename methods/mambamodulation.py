"""Scale the spectrum of the state transition: each layer forgets at a pace fitted to the length.

    linear   A' = s A          every mode slower for s < 1; the reading of "scaling A"
    power    A' = -|A|^s       what the released code computes: |A| = 1 is fixed, |A| < 1 becomes faster

Source: MambaModulation (arXiv:2509.19633). Calibrators, granularities and deviations as in `mambaextend`;
`as_released` also keeps scales at most 1, as the code does for Mamba-1. With backprop it starts Mamba at 1
and Mamba-2 at U(0, 1), with one scale a channel of Mamba, where the code has one for each state of a channel,
and its rate of 0.1 is the largest of the four that were tried.
"""

from typing import ClassVar, Literal

from lgbench.methods._scaling import ScaleIntervention, Scaling
from pydantic import Field, model_validator
from torch import Tensor

from lgbench.models.mamba2 import Mamba2
from lgbench.models.model import Model


class MambaModulation(Scaling):
    """Trains like vanilla; a calibration for each length beyond that of training."""

    class Params(Scaling.Params):
        map: Literal["linear", "power"] = Field("linear", description="how a scale changes A")

        released_spsa_steps: ClassVar[int] = 30

        @model_validator(mode="after")
        def _released_map(self):
            if self.protocol == "as_released" and self.map != "power":
                raise ValueError("the released code has map=power; add it to protocol=as_released")
            return self

    key = "transition_scale"
    highest = 1.0

    def lowest_start(self, model: Model) -> float:
        """1, for all scales alike, where the released passkey program has Mamba."""
        if self.params.calibrator == "backprop" and not isinstance(model.backbone, Mamba2):
            return 1.0
        return super().lowest_start(model)

    def intervention(self, train_length: int, d_model: int) -> ScaleIntervention:
        """Scales on A."""
        return self.prepared(_Modulated(self.params.map))


class _Modulated(ScaleIntervention):
    def __init__(self, kind: str) -> None:
        self.kind = kind

    def transition(self, layer: int, A: Tensor) -> Tensor:
        """A `(d_inner, d_state)`, Mamba-2 `(heads,)`, under its scale."""
        scale = self.scale_of(layer, A)
        scale = scale.unsqueeze(-1) if A.ndim == 2 else scale
        return A * scale if self.kind == "linear" else -((-A) ** scale)
