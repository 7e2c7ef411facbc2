"""Scale the spectrum of the state transition: each layer forgets at a pace fitted to the length.

    linear   A' = s A          every mode slower for s < 1; the reading of "scaling A"
    power    A' = -|A|^s       what most released code computes: |A| = 1 is fixed, |A| < 1 becomes faster

Source: MambaModulation (arXiv:2509.19633). Calibrators, granularities and deviations as in `mambaextend`.
`as_released` follows the backbone as the code does:

              spsa (perplexity)           backprop (passkey)
    Mamba     power, scales at most 1     power, one scale for each entry of A, start at 1, not limited
    Mamba-2   power, not limited          linear, one scale a head, start at U(0, 1), not limited

The rate of 0.1 of backprop is the largest of the four that were tried.
"""

from typing import Any, ClassVar, Literal

from lgbench.methods._scaling import ScaleIntervention, Scaling, ScalingParams
from pydantic import Field, model_validator
from torch import Tensor

from lgbench.backbones.mamba2 import Mamba2
from lgbench.errors import UserError
from lgbench.models.model import Model
from lgbench.task import Recipe


class MambaModulation(Scaling):
    """Trains like vanilla; a calibration for each length beyond that of training."""

    class Params(ScalingParams):
        granularity: Literal["layer", "channel", "global", "state"] = Field(
            "layer",
            description="one scale a layer, one a channel (Mamba-2: head) of each layer, one in all, or one "
            "for each state of each channel; if not set, as_released with backprop a state",
        )
        map: Literal["linear", "power", "released"] = Field(
            "linear",
            description="how a scale changes A; released: power, but linear for Mamba-2 with backprop; "
            "if not set, as_released has released",
        )

        released_spsa_steps: ClassVar[int] = 30
        released_granularity: ClassVar[str] = "state"

        @model_validator(mode="before")
        @classmethod
        def _released_map(cls, given: Any) -> Any:
            if isinstance(given, dict) and given.get("protocol") == "as_released":
                return {"map": "released", **given}
            return given

    version = 2
    key = "transition_scale"

    def check(self, recipe: Recipe, backbone: str) -> None:
        """Refuse to call a map as released that is not, on this backbone.

        Raises:
            UserError: says which it is.
        """
        params = self.params
        released = _released(params.calibrator, is_mamba2=backbone == "mamba2")
        if self.protocol == "as_released" and params.map not in ("released", released):
            raise UserError(
                f"mambamodulation: the released code has map={released} on {backbone} with calibrator="
                f"{params.calibrator}, not map={params.map}; leave map out, or protocol=as_released"
            )

    def highest(self, model: Model) -> float:
        """The code for perplexity limits scales of Mamba."""
        limited = self.params.calibrator == "spsa" and not isinstance(model.backbone, Mamba2)
        return 1.0 if limited else super().highest(model)

    def lowest_start(self, model: Model) -> float:
        """1, for all scales alike, where the released passkey program has Mamba."""
        if self.params.calibrator == "backprop" and not isinstance(model.backbone, Mamba2):
            return 1.0
        return super().lowest_start(model)

    def intervention(self, train_length: int, d_model: int) -> ScaleIntervention:
        """Scales on A."""
        return self.prepared(_Modulated(self.params.map, self.params.calibrator))


class _Modulated(ScaleIntervention):
    def __init__(self, kind: str, calibrator: str) -> None:
        self.kind, self.calibrator = kind, calibrator

    def transition(self, layer: int, A: Tensor) -> Tensor:
        """A `(d_inner, d_state)`, Mamba-2 `(heads,)`, under its scale."""
        scale = self.scale_of(layer, A)
        scale = scale.unsqueeze(-1) if A.ndim == 2 and scale.ndim == 1 else scale
        kind = _released(self.calibrator, is_mamba2=A.ndim == 1) if self.kind == "released" else self.kind
        return A * scale if kind == "linear" else -((-A) ** scale)


def _released(calibrator: str, *, is_mamba2: bool) -> str:
    """Map of the released program for this calibrator and backbone."""
    return "linear" if is_mamba2 and calibrator == "backprop" else "power"
