"""What MambaExtend and MambaModulation share: positive scales, and how they are fitted to a length.

`protocol=clean` changes nothing up to the training length. Beyond, log s is searched without a floor, from
s = 1 and from s = L_train / L; of the best iterates of both, and of no change at all, the one with the
least loss on validation items is used.

`protocol=as_released` follows one of two released programs, and takes what is not given from it:

    calibrator   released for   granularity     start                  steps                 rate    items
    spsa         perplexity     layer           U(0.75, 1)             50, modulation 30     0.001   20
    backprop     passkey        see modules     U(0, 1), see modules   10 epochs, batch 32   0.1     6,144

spsa is taken if neither is asked for; it lowers the perplexity, at each length. backprop fits once, at 4,096
tokens. Both end with the last iterate. All tokens that are given are scaled, labels too, in calibration and
in evaluation; generated ones are not. Not as released, in either: items come from the training split, the
loss is that of the task's labels (released with spsa: all positions), and scales are float32.
"""

from __future__ import annotations

import math

import torch
from lgbench.methods._scaling.intervention import ScaleIntervention
from lgbench.methods._scaling.params import ScalingParams
from lgbench.methods._scaling.released import released_fit
from torch import Tensor

from lgbench.method import Method
from lgbench.models.model import Model
from lgbench.run.calibrate import CalibrationData
from lgbench.run.calibrators import Objective, adamw, fit_logarithms, spsa
from lgbench.task import Batch

__all__ = ["ScaleIntervention", "Scaling", "ScalingParams"]


class Scaling(Method):
    """Multiply one quantity of every layer by fitted scales; all weights stay as they are."""

    Params = ScalingParams
    released_version = 2

    key = ""
    """Name of the scales among fitted parameters."""
    trains_like = "vanilla"
    calibration_free = frozenset({"fit_at", "fit_length"})

    @property
    def needs_length(self) -> bool:
        """Unless one scale serves all lengths; a clean fit serves those beyond training."""
        params = self.params
        once = params.fit_length is not None and params.protocol == "as_released"
        return params.scale is None and not once

    @property
    def prefix_exact(self) -> bool:
        """Where one scale serves all lengths, one pass does too."""
        return not self.needs_length

    @property
    def protocol(self) -> str:
        """See `Params`."""
        return self.params.protocol

    def calibration_length(self, length: int, train_length: int) -> int | None:
        """The assumed length; clean: None where it is that of training, and at lengths of training."""
        assumed = self.assumed_length(length, train_length)
        clean = self.params.protocol == "clean"
        return None if clean and (length <= train_length or assumed == train_length) else assumed

    def assumed_length(self, length: int, train_length: int) -> int | None:
        """`fit_at` times the length, but never below that of training: shorter ones share its scales."""
        if self.params.scale is not None:
            return None
        if self.params.fit_length is not None:
            return self.params.fit_length
        return max(train_length, round(self.params.fit_at * max(length, train_length)))

    def calibrate(self, model: Model, data: CalibrationData, length: int) -> dict[str, Tensor]:
        """Scales float32 `(num_layers, channels)`, or `(num_layers, 1)` and `(1, 1)` where they are shared.

        With granularity "state" one for each entry of A, `(num_layers, d_inner, d_state)`. Channels are those
        that have a time step of their own: d_inner in Mamba, heads in Mamba-2.
        """
        batch = data.draw("calibration", self.params.items, length)

        def loss_on(items: Batch) -> Objective:
            return lambda scales: data.loss(model, items, {self.key: scales})

        if self.params.protocol == "as_released":
            limits = dict(lowest=self.lowest_start(model), highest=self.highest(model))
            return {self.key: released_fit(self.params, loss_on, batch, shape=self._shape(model), **limits)}
        ones = torch.ones(self._shape(model), device=next(model.parameters()).device)
        scales = fit_logarithms(
            spsa if self.params.calibrator == "spsa" else adamw,
            loss_on(batch),
            loss_on(data.draw("validation", self.params.items, length)),
            starts=[ones, ones * data.train_length / length],
            learning_rate=self._stride(abs(math.log(length / data.train_length))),
            steps=self.params.steps,
        )
        return {self.key: scales}

    def _stride(self, reach: float) -> float:
        """Learning rate of a clean fit: of backprop, half of its steps lead as far as `reach`."""
        params = self.params
        if params.learning_rate is not None or params.calibrator == "spsa":
            return params.learning_rate or 0.001
        return max(0.1, 2 * reach / params.steps)

    def highest(self, model: Model) -> float:
        """Largest scale in `as_released`."""
        return float("inf")

    def lowest_start(self, model: Model) -> float:
        """`as_released` draws first scales between this and 1."""
        return 0.75 if self.params.calibrator == "spsa" else 0.0

    def prepared(self, intervention: ScaleIntervention) -> ScaleIntervention:
        """An intervention with this method's settings."""
        params = self.params
        intervention.apply_in_decode = params.apply_in_decode is not False
        intervention.apply_to_generated = params.protocol == "clean" or params.apply_in_decode is True
        intervention.key, intervention.fixed = self.key, params.scale
        intervention.use({})
        return intervention

    def _shape(self, model: Model) -> tuple[int, ...]:
        blocks, granularity = model.backbone.blocks, self.params.granularity
        if granularity in ("layer", "global"):
            return (len(blocks) if granularity == "layer" else 1, 1)
        if granularity == "state" and hasattr(blocks[0], "A_log"):
            return (len(blocks), *blocks[0].A_log.shape)
        return (len(blocks), blocks[0].num_channels)
