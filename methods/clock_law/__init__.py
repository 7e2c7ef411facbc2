"""Clock law: beyond training, each layer writes and forgets at a pace that one law gives for every length.

    h ← exp(d Δ A) h + w Δ B x         w_ℓ, d_ℓ = s or 1 in layer ℓ,   s = min(1, c L_train / L)

    both clocks     the mean of the state is kept     where more context is denser: the same thing more often
    decay alone     the layer forgets more slowly     where more context is longer: one thing, further back

Up to c L_train nothing changes. Which layers write slowly, which forget slowly, whether that holds for the
context or also for the queries, and c are selected once (`selection`), at two lengths; the law then predicts
all others. What is given by hand is not selected; with `write` or `decay` given, nothing is unless it says
auto: the other is none, `where` is both and c is 1. Source: our own; write and decay together are MambaExtend
with a scale that is not fitted (`slow_clock`), decay alone is MambaModulation with one.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from lgbench.methods.clock_law.intervention import Clocks
from lgbench.methods.clock_law.selection import EVERYWHERE, Law, Space, select
from pydantic import Field, model_validator
from torch import Tensor, stack

from lgbench.errors import UserError
from lgbench.method import Method
from lgbench.models.model import Model
from lgbench.run.calibrate import CalibrationData
from lgbench.run.reading import can_stream
from lgbench.task import Recipe

Layers = Literal["auto", "none", "all"] | tuple[int, ...]


class ClockLaw(Method):
    """Trains like vanilla; one selection for a checkpoint."""

    class Params(Method.Params):
        write: Layers = Field("auto", description="layers that write more slowly; auto selects them")
        decay: Layers = Field("auto", description="layers that forget more slowly; auto selects them")
        where: Literal["auto", "context", "queries", "both"] = Field(
            "auto", description="what is scaled: the context, the queries after it, or both"
        )
        c: Literal["auto"] | Annotated[float, Field(gt=0)] = Field(
            "auto", description="the law begins at c L_train; auto selects among 1/2, 1, 2 and 4"
        )
        select_at: tuple[float, float] = Field(
            (2.0, 8.0), description="lengths of the selection / training length"
        )
        items: int = Field(64, ge=2, description="validation items of the selection at each length")

        @model_validator(mode="before")
        @classmethod
        def _by_hand(cls, given: Any) -> Any:
            if not isinstance(given, dict):
                return given
            given = {k: (v,) if k in ("write", "decay") and type(v) is int else v for k, v in given.items()}
            if given.get("write", "auto") == given.get("decay", "auto") == "auto":
                return given
            return {"write": "none", "decay": "none", "where": "both", "c": 1.0, **given}

        @model_validator(mode="after")
        def _agree(self):
            for name in ("write", "decay"):
                layers = getattr(self, name)
                if not isinstance(layers, str) and (
                    list(layers) != sorted({*layers}) or any(k < 0 for k in layers)
                ):
                    raise ValueError(f"{name} must increase from layer 0 on, got {list(layers)}")
            if not 1 <= self.select_at[0] < self.select_at[1]:
                raise ValueError(f"select_at must increase from 1 on, got {list(self.select_at)}")
            return self

        @property
        def selects(self) -> bool:
            """Whether anything is left to select."""
            return "auto" in (self.write, self.decay, self.where, self.c)

    trains_like = "vanilla"
    prefix_exact = False
    needs_length = True

    def check(self, recipe: Recipe, backbone: str) -> None:
        """Refuse layers that are not there."""
        for name in ("write", "decay"):
            layers, depth = getattr(self.params, name), recipe.num_layers
            if not isinstance(layers, str) and max(layers, default=0) >= depth:
                raise UserError(
                    f"clock_law: {name}={list(layers)}, but the model has layers 0 to {depth - 1}"
                )

    def calibration_length(self, length: int, train_length: int) -> int | None:
        """The longer length of the selection, whatever the length."""
        return self.drawn_lengths(length, train_length)[-1] if self.params.selects else None

    def drawn_lengths(self, fitted_at: int, train_length: int) -> tuple[int, ...]:
        """The two lengths of the selection."""
        return tuple(round(multiple * train_length) for multiple in self.params.select_at)

    def calibrate(self, model: Model, data: CalibrationData, length: int) -> dict[str, Tensor]:
        """The law that `selection.select` finds, see `Law.tensors`."""
        num_layers = len(model.backbone.blocks)
        batches = [
            data.draw("validation", self.params.items, n)
            for n in self.drawn_lengths(length, data.train_length)
        ]

        def losses(law: Law) -> Tensor:
            return stack([data.losses(model, batch, law.tensors()) for batch in batches])

        return select(losses, self._space(num_layers, apart=can_stream(model))).tensors()

    def intervention(self, train_length: int, d_model: int) -> Clocks:
        """Clocks by the law given by hand, or by none until one was selected."""
        params = self.params
        law = None
        if not params.selects:
            law = (params.write, params.decay, EVERYWHERE[params.where], params.c)
        return Clocks(train_length, law)

    def _space(self, num_layers: int, *, apart: bool) -> Space:
        """What is left to choose; where context and queries are one piece they are scaled alike."""
        params = self.params
        wheres = ("both", "context", "queries") if apart else ("both",)
        return Space(
            write=_choices(params.write, num_layers),
            decay=_choices(params.decay, num_layers),
            where=wheres if params.where == "auto" else (params.where,),
            c=(1.0, 0.5, 2.0, 4.0) if params.c == "auto" else (params.c,),
        )


def _choices(layers: Layers, num_layers: int) -> tuple[tuple[bool, ...], ...]:
    """For each layer whether its clock may be left alone (False), slowed (True), or either."""
    if layers == "auto":
        return ((False, True),) * num_layers
    return tuple(
        (layers == "all" or (not isinstance(layers, str) and k in layers),) for k in range(num_layers)
    )
