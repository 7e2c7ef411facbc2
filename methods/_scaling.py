"""What MambaExtend and MambaModulation share: positive scales, and how they are fitted to a length.

`protocol=clean` changes nothing up to the training length. Beyond, log s is searched without a floor, from
s = 1 and from s = L_train / L; of the best iterates of both, and of no change at all, the one with the
least loss on validation items is used.

`protocol=as_released` follows one of two released programs, and takes what is not given from it:

    calibrator   released for          granularity   start                  steps                rate
    spsa         perplexity            layer         U(0.75, 1)             50, modulation 30    0.001
    backprop     passkey               channel       U(0, 1), see modules   30, not as released  0.1

spsa is taken if neither is asked for. Both end with the last iterate and leave queries after a kept state
unscaled. Not as released, in either: items come from the training split, the loss is the task's own in nats
(released with spsa: perplexity over all positions), scales are float32, and each length is calibrated unless
`fit_length` says otherwise (passkey: once, at 4,096 tokens; fit_length=4096). Not as released with backprop:
steps see the same 20 items, where it was up to 10 epochs of 6,144 sequences in batches of 32.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from lgbench.method import Method, ScanIntervention
from lgbench.models.model import Model
from lgbench.run.calibrate import CalibrationData
from lgbench.run.calibrators import Objective, adamw, fit_logarithms, spsa
from lgbench.task import Batch

FLOOR = 0.01
"""Smallest scale, as published; of `as_released`."""


class Scaling(Method):
    """Multiply one quantity of every layer by fitted scales; all weights stay as they are."""

    class Params(Method.Params):
        granularity: Literal["layer", "channel", "global"] = Field(
            "layer",
            description="one scale a layer, one a channel (Mamba-2: head) of each layer, or one in all; "
            "if not set, as_released with backprop a channel",
        )
        scale: float | None = Field(None, gt=0, description="this scale everywhere instead of fitted ones")
        calibrator: Literal["backprop", "spsa"] = Field(
            "backprop",
            description="AdamW through the model, or losses alone; if not set, as_released spsa",
        )
        steps: int = Field(
            30,
            ge=1,
            le=10_000,
            description="steps of the calibrator; if not set, mambaextend as_released with spsa 50",
        )
        learning_rate: float | None = Field(
            None,
            gt=0,
            description="of the calibrator; if not set 0.001 for spsa and 0.1 for backprop; clean: or more, "
            "so that half of the steps lead from s = 1 to L_train / L",
        )
        items: int = Field(
            20, ge=1, description="training items to calibrate on; clean: as many again to choose on"
        )
        fit_at: float = Field(
            1.0, gt=0, le=64, description="length fitted for / true length; 1 knows the length"
        )
        fit_length: int | None = Field(
            None, ge=1, description="fit once, at this context length; clean: used beyond L_train alone"
        )
        protocol: Literal["clean", "as_released"] = Field(
            "clean",
            description="as_released: random start, last iterate, no scales for queries after a kept state, "
            "and what is not given as in the released program for perplexity (spsa) or passkey (backprop)",
        )
        apply_in_decode: bool | None = Field(
            None, description="scale queries after a kept state too; if not set, unless as_released"
        )

        released_spsa_steps: ClassVar[int] = 50

        @model_validator(mode="before")
        @classmethod
        def _released_settings(cls, given: Any) -> Any:
            if not isinstance(given, dict) or given.get("protocol") != "as_released":
                return given
            given = {"calibrator": "spsa", **given}
            if given["calibrator"] == "backprop":
                return {"granularity": "channel", **given}
            return {"steps": cls.released_spsa_steps, **given}

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

        Channels are those that have a time step of their own: d_inner in Mamba, heads in Mamba-2.
        """
        batch = data.draw("calibration", self.params.items, length)

        def loss_on(items: Batch) -> Objective:
            return lambda scales: data.loss(model, items, {self.key: scales})

        if self.params.protocol == "as_released":
            return {self.key: self._released_fit(model, loss_on(batch))}
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

    def _released_fit(self, model: Model, loss: Objective) -> Tensor:
        """The last iterate of a search for s from random scales."""
        lowest, rng = self.lowest_start(model), torch.Generator().manual_seed(0)
        start = (lowest + (1 - lowest) * torch.rand(self._shape(model), generator=rng)).clamp(min=FLOOR)
        fit, rate = (spsa, 0.001) if self.params.calibrator == "spsa" else (adamw, 0.1)
        return fit(
            loss,
            start.to(next(model.parameters()).device),
            learning_rate=self.params.learning_rate or rate,
            steps=self.params.steps,
            low=FLOOR,
            high=self.highest(model),
            keep_best=False,
        )

    def highest(self, model: Model) -> float:
        """Largest scale in `as_released`."""
        return float("inf")

    def lowest_start(self, model: Model) -> float:
        """`as_released` draws first scales between this and 1."""
        return 0.75 if self.params.calibrator == "spsa" else 0.0

    def prepared(self, intervention: ScaleIntervention) -> ScaleIntervention:
        """An intervention with this method's settings."""
        params = self.params
        released = params.protocol == "as_released"
        intervention.apply_in_decode = (
            not released if params.apply_in_decode is None else params.apply_in_decode
        )
        intervention.key, intervention.fixed = self.key, params.scale
        intervention.use({})
        return intervention

    def _shape(self, model: Model) -> tuple[int, int]:
        blocks = model.backbone.blocks
        return {
            "layer": (len(blocks), 1),
            "channel": (len(blocks), blocks[0].num_channels),
            "global": (1, 1),
        }[self.params.granularity]


class ScaleIntervention(ScanIntervention):
    """Holds scales; rests where all of them are 1."""

    key: str
    fixed: float | None
    scales: Tensor | None

    def use(self, fitted: dict[str, Tensor]) -> None:
        """Take `(num_layers or 1, channels or 1)` scales; without any, the fixed one or none."""
        fixed = None if self.fixed is None else torch.full((1, 1), self.fixed)
        self.scales = fitted.get(self.key, fixed)
        neutral = self.scales is None or bool((self.scales == 1).all())
        self.resting = neutral and not (self.scales is not None and self.scales.requires_grad)

    def scale_of(self, layer: int, like: Tensor) -> Tensor:
        """`(channels,)` or `(1,)`, on the device of `like`."""
        return self.scales[layer if len(self.scales) > 1 else 0].to(like.device)
