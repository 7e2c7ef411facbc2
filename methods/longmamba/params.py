"""Parameters of LongMamba, and the numbers of its release."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator
from torch import Tensor

from lgbench.method import Method

RELEASED_TRAIN_LENGTH, RELEASED_FROM = 2000, 3000
"""Tokens for which the released tables are made, and from which on the released code filters."""

LEAST_SURVIVAL = 1e-30
"""Of a global channel, where nothing else is asked for or released."""
RELEASED_ON_MAMBA2 = 0.05
"""The same in the release that has Mamba-2 alone; the one before, which had Mamba, had `LEAST_SURVIVAL`."""


class LongMambaParams(Method.Params):
    """Which channels are filtered, how strongly, and what thresholds are made of."""

    c_thr: float | None = Field(
        None,
        ge=0,
        le=1,
        description="least survival of a global channel; if not set 1e-30, released on Mamba-2 0.05",
    )
    rho: float = Field(0.1, ge=0, le=1, description="share of largest time steps that statistics clamp")
    strength: float = Field(1.0, ge=0, le=100, description="factor on the thresholds; 0 filters nothing")
    over: Literal["avg", "max"] = Field("avg", description="how statistics of the items are combined")
    table_up_to: float = Field(96.0, ge=1, le=4096, description="end of the table, multiples of L_train")
    items: int = Field(
        20, ge=1, description="training items that statistics are taken from; if not set, as_released 100"
    )
    protocol: Literal["clean", "as_released"] = Field(
        "clean", description="as_released: the released numbers in place of L_train"
    )

    @model_validator(mode="before")
    @classmethod
    def _released_segments(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("protocol") == "as_released":
            return {"items": 100, **given}
        return given

    @property
    def profile(self) -> int | None:
        """Tokens whose time steps are the budget of longer sequences; None is the training length."""
        return RELEASED_TRAIN_LENGTH if self.protocol == "as_released" else None

    def acts(self, length: int | Tensor, train_length: int) -> bool:
        """Whether contexts of this length are filtered."""
        return length > train_length if self.protocol == "clean" else length >= RELEASED_FROM
