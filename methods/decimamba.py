"""Drop the tokens that matter least in a few layers, so that later layers see a sequence of trained length.

    in decimating layer number s:  keep the L_base β^s tokens of largest score, in their order, and all
    protected positions (queries, the prompt's end); residual, x, z, Δ, B, C are cut together

Source: Ben-Kish et al., arXiv:2406.14528. Score: norm (released code) or mean (paper) of Δ over channels.
Ablations: `random` (the same positions for all samples, so that an answer does not depend on its batch),
`max_norm` (norm of the scan's input; the paper does not say of what), `count=top_k_percent`.
"""

from typing import Any, Literal

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from lgbench.calibrate import CalibrationData
from lgbench.diagnostics.mean_distance import MeanDistance
from lgbench.errors import UserError
from lgbench.method import Method, Mode, ScanIntervention
from lgbench.models.intervention import Composed
from lgbench.models.model import Model
from lgbench.task import Recipe

GRID = (1, 2, 4)
"""Multiples of L_train at which layers are chosen."""


class DeciMamba(Method):
    """Which tokens survive depends on all of them, so each length needs one pass in one piece."""

    class Params(Method.Params):
        layers: tuple[int, ...] | Literal["auto"] = Field(
            "auto", description="decimating layers, from 0, as [[1,3]]; auto: largest mean distance"
        )
        num_layers: int = Field(1, ge=1, description="layers that auto chooses")
        l_base: int | None = Field(None, ge=1, description="tokens kept in the first one; L_train if not set")
        beta: float = Field(0.5, gt=0, le=1, description="factor on the kept tokens from one to the next")
        min_seq_len: int = Field(20, ge=1, description="never keep fewer tokens, protected ones aside")
        score: Literal["l2", "mean", "random", "max_norm"] = Field(
            "l2", description="what makes a token matter"
        )
        count: Literal["top_p", "top_k_percent"] = Field("top_p", description="L_base β^s, or a percentage")
        percent: float = Field(50.0, gt=0, le=100, description="of the tokens, for top_k_percent")
        train_with: bool = Field(False, description="train with decimation too; else trains like vanilla")
        train_l_base: int | None = Field(None, ge=1, description="L_base in training; l_base if not set")
        items: int = Field(8, ge=1, description="training items on which auto chooses")

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
            if self.train_with and self.layers == "auto":
                raise ValueError("train_with=true needs layers, since auto asks a trained model")
            if self.train_l_base is not None and not self.train_with:
                raise ValueError("train_l_base has no effect without train_with=true")
            return self

    prefix_exact = False
    needs_length = True
    train_eagerly = True
    eval_only = frozenset({"num_layers", "items"})
    calibration_free = frozenset({"l_base", "beta", "min_seq_len", "score", "count", "percent"})

    def __init__(self, params: Params | None = None) -> None:
        super().__init__(params)
        if self.params.train_l_base is not None:  # then L_base may change after training
            self.eval_only = type(self).eval_only | {"l_base"}

    @property
    def trains_like(self) -> str | None:
        """Vanilla, unless trained with decimation."""
        return None if self.params.train_with else "vanilla"

    def check(self, recipe: Recipe) -> None:
        """Refuse layers that are not there, and an L_base below what is protected."""
        params, depth = self.params, recipe.num_layers
        if params.layers == "auto" and params.num_layers > depth:
            raise UserError(f"decimamba: num_layers={params.num_layers}, but the model has {depth} layers")
        if params.layers != "auto" and max(params.layers, default=0) >= depth:
            raise UserError(
                f"decimamba: layers={list(params.layers)}, but the model has layers 0 to {depth - 1}"
            )
        if params.l_base is not None and params.l_base < recipe.eval_queries:
            raise UserError(
                f"decimamba: l_base={params.l_base} is below the {recipe.eval_queries} protected positions "
                f"(queries). Choose l_base of at least {recipe.eval_queries}, or fewer --eval-queries."
            )

    def calibration_length(self, length: int, train_length: int) -> int | None:
        """Layers are chosen once, for all lengths."""
        return train_length if self.params.layers == "auto" else None

    def calibrate(self, model: Model, data: CalibrationData, length: int) -> dict[str, Tensor]:
        """The `num_layers` layers of largest mean distance relative to the length, over a grid of lengths."""
        distance = torch.zeros(len(model.backbone.blocks), dtype=torch.float64)
        undisturbed = model.intervention
        for multiple in GRID:
            batch = data.draw("validation", self.params.items, multiple * length)
            seen = MeanDistance()
            model.intervention = Composed([undisturbed, seen])
            try:
                data.loss(model, batch, {})
            finally:
                model.intervention = undisturbed
            for layer, tokens in seen.by_layer().items():
                distance[layer] += tokens / (multiple * length)
        chosen = distance.sort(descending=True, stable=True).indices[: self.params.num_layers]
        return {"keep_layers": chosen.sort().values}

    def intervention(self, train_length: int, d_model: int) -> ScanIntervention:
        """The choice of tokens."""
        return _Decimated(self.params, train_length)


class _Decimated(ScanIntervention):
    def __init__(self, params: DeciMamba.Params, train_length: int) -> None:
        self.params, self.train_length = params, train_length
        self.num_protected, self.l_base = 0, 0
        self.use({})

    def use(self, fitted: dict[str, Tensor]) -> None:
        """Take the layers that were chosen; without any, those asked for."""
        given = () if self.params.layers == "auto" else self.params.layers
        self.layers = tuple(fitted["keep_layers"].tolist()) if "keep_layers" in fitted else given

    def begin(self, mode: Mode, length: int | Tensor, num_protected: int) -> None:
        """Keep what is protected; rest where no layer would drop a token."""
        params = self.params
        trained = params.train_l_base if mode == "train" and params.train_l_base else params.l_base
        self.l_base, self.num_protected = trained or self.train_length, num_protected
        self.resting = all(self._num_kept(rank, int(length)) >= length for rank in range(len(self.layers)))

    def keep(self, layer: int, delta: Tensor, x: Tensor) -> Tensor | None:
        """Indices of the tokens of largest score and of the protected ones; None if that is all of them."""
        batch, length = delta.shape[:2]
        free = length - self.num_protected
        if layer not in self.layers or free <= 0:
            return None
        kept = self._num_kept(self.layers.index(layer), free)
        if kept >= free:
            return None
        scores = self._scores(layer, delta.detach()[:, :free], x.detach()[:, :free])
        chosen = scores.sort(dim=1, descending=True, stable=True).indices[:, :kept].sort(dim=1).values
        protected = torch.arange(free, length, device=delta.device).expand(batch, -1)
        return torch.cat([chosen, protected], dim=1)

    def _num_kept(self, rank: int, free: int) -> int:
        params = self.params
        wanted = (
            free * params.percent / 100
            if params.count == "top_k_percent"
            else self.l_base * params.beta**rank
        )
        return min(free, max(int(min(free, wanted)), params.min_seq_len))

    def _scores(self, layer: int, delta: Tensor, x: Tensor) -> Tensor:
        """`(batch, free)`; ties go to the earlier token, since the sort is stable."""
        if self.params.score == "mean":
            return delta.mean(dim=-1)
        if self.params.score == "random":
            rng = torch.Generator().manual_seed(1000 * delta.shape[1] + layer)
            return torch.rand(delta.shape[1], generator=rng).to(delta.device).expand(len(delta), -1)
        return torch.linalg.vector_norm(delta if self.params.score == "l2" else x, dim=-1)
