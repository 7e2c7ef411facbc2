"""Parameters of DeciMamba."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from lgbench.method import Method

RELEASED_LAYERS, RELEASED_L_BASE = (12,), 2000


class DeciMambaParams(Method.Params):
    """What is kept where, by which score; how layers are chosen; and whether training decimates."""

    layers: tuple[int, ...] | Literal["auto"] = Field(
        "auto",
        description="decimating layers, from 0, as [[1,3]]; auto: largest mean distance; released 12",
    )
    num_layers: int = Field(1, ge=1, description="layers that auto chooses")
    l_base: int | None = Field(
        None, ge=1, description="tokens kept in the first one; if not set L_train, as_released 2000"
    )
    beta: float = Field(0.5, gt=0, le=1, description="factor on the kept tokens from one to the next")
    min_seq_len: int = Field(20, ge=1, description="never keep fewer tokens, protected ones aside")
    score: Literal["l2", "mean", "random", "max_norm"] = Field("l2", description="what makes a token matter")
    count: Literal["top_p", "top_k_percent"] = Field("top_p", description="L_base β^s, or a percentage")
    percent: float = Field(50.0, gt=0, le=100, description="of the tokens, for top_k_percent")
    train_with: bool = Field(False, description="train with decimation too; else trains like vanilla")
    train_l_base: int | None = Field(None, ge=1, description="L_base in training; l_base if not set")
    items: int = Field(8, ge=1, description="training items on which auto chooses")
    protocol: Literal["clean", "as_released"] = Field(
        "clean",
        description="as_released: layers and L_base of the released code where none are given; only "
        "positions that answers are read from are protected; texts are trained on in two chunks",
    )

    @property
    def given_layers(self) -> tuple[int, ...] | None:
        """Layers that need no choosing; None if they do."""
        if self.layers != "auto":
            return self.layers
        return RELEASED_LAYERS if self.protocol == "as_released" else None

    @field_validator("layers", mode="before")
    @classmethod
    def _one_layer(cls, value: Any) -> Any:
        return (value,) if isinstance(value, int) else value

    @model_validator(mode="after")
    def _agree(self):
        if self.layers != "auto" and (
            list(self.layers) != sorted({*self.layers}) or min(self.layers, default=0) < 0
        ):
            raise ValueError(f"layers must increase from 0 on, got {list(self.layers)}")
        if self.train_with and self.given_layers is None:
            raise ValueError("train_with=true needs layers, since auto asks a trained model")
        if self.train_l_base is not None and not self.train_with:
            raise ValueError("train_l_base has no effect without train_with=true")
        if self.protocol == "as_released" and (self.score, self.count) != ("l2", "top_p"):
            raise ValueError("the released code has score=l2 and count=top_p alone")
        return self
