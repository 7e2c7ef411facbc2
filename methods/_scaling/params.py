"""Parameters that MambaExtend and MambaModulation share."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from lgbench.method import Method

RELEASED_BATCH = 32
"""Sequences of a step of the released programs for passkey."""


class ScalingParams(Method.Params):
    """What is fitted, and how."""

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
        description="steps of the calibrator; if not set, as_released 1,920 with backprop, with spsa 50, "
        "mambamodulation 30",
    )
    learning_rate: float | None = Field(
        None,
        gt=0,
        description="of the calibrator; if not set 0.001 for spsa and 0.1 for backprop; clean: or more, "
        "so that half of the steps lead from s = 1 to L_train / L",
    )
    items: int = Field(
        20,
        ge=1,
        description="training items to calibrate on; clean: as many again to choose on; if not set, "
        "as_released with backprop 6,144",
    )
    fit_at: float = Field(1.0, gt=0, le=64, description="length fitted for / true length; 1 knows the length")
    fit_length: int | None = Field(
        None,
        ge=1,
        description="fit once, at this context length; clean: used beyond L_train alone; if not set, "
        "as_released with backprop 4,096",
    )
    protocol: Literal["clean", "as_released"] = Field(
        "clean",
        description="as_released: random start, last iterate, no scales for generated tokens, "
        "and what is not given as in the released program for perplexity (spsa) or passkey (backprop)",
    )
    apply_in_decode: bool | None = Field(
        None,
        description="scale what follows a kept state too; if not set yes, as_released but for generated "
        "tokens",
    )

    released_spsa_steps: ClassVar[int] = 50
    released_granularity: ClassVar[str] = "channel"

    @model_validator(mode="before")
    @classmethod
    def _released_settings(cls, given: Any) -> Any:
        if not isinstance(given, dict) or given.get("protocol") != "as_released":
            return given
        given = {"calibrator": "spsa", **given}
        if given["calibrator"] == "backprop":
            epochs = dict(items=6144, steps=10 * 6144 // RELEASED_BATCH, fit_length=4096)
            return {"granularity": cls.released_granularity, **epochs, **given}
        return {"steps": cls.released_spsa_steps, **given}
