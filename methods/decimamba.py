"""Drop the tokens that matter least in a few layers, so that later layers see a sequence of trained length.

    in decimating layer number s:  keep the L_base β^s tokens of largest score, in their order, and all
    protected positions (queries, the prompt's end); residual, x, z, Δ, B, C are cut together

Source: Ben-Kish et al., arXiv:2406.14528. Score: norm (released code) or mean (paper) of Δ over channels.
Ablations: `random` (the same positions for all samples, so that an answer does not depend on its batch),
`max_norm` (norm of the scan's input; the paper does not say of what), `count=top_k_percent`. On Mamba-2 the
score is over heads. `protocol=as_released`: layer 12 and L_base 2000 if not given, as in the code's passkey
configuration, where the paper has layers 13 to 21; its layer search is not reproduced.
"""

from typing import Any, Literal

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from lgbench.errors import UserError
from lgbench.intervention import Composed
from lgbench.method import Method, Mode, ScanIntervention
from lgbench.models.model import Model
from lgbench.probes.mean_distance import MeanDistance
from lgbench.run.calibrate import CalibrationData
from lgbench.task import Recipe

GRID = (1, 2, 4)
"""Multiples of L_train at which layers are chosen."""

RELEASED_LAYERS, RELEASED_L_BASE = (12,), 2000


class DeciMamba(Method):
    """Which tokens survive depends on all of them, so each length needs one pass in one piece."""

    class Params(Method.Params):
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
        score: Literal["l2", "mean", "random", "max_norm"] = Field(
            "l2", description="what makes a token matter"
        )
        count: Literal["top_p", "top_k_percent"] = Field("top_p", description="L_base β^s, or a percentage")
        percent: float = Field(50.0, gt=0, le=100, description="of the tokens, for top_k_percent")
        train_with: bool = Field(False, description="train with decimation too; else trains like vanilla")
        train_l_base: int | None = Field(None, ge=1, description="L_base in training; l_base if not set")
        items: int = Field(8, ge=1, description="training items on which auto chooses")
        protocol: Literal["clean", "as_released"] = Field(
            "clean", description="as_released: layers and L_base of the released code where none are given"
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

    @property
    def protocol(self) -> str:
        """See `Params`."""
        return self.params.protocol

    def check(self, recipe: Recipe, backbone: str) -> None:
        """Refuse layers that are not there, and an L_base below what is protected."""
        params, depth, layers = self.params, recipe.num_layers, self.params.given_layers
        if layers is None and params.num_layers > depth:
            raise UserError(f"decimamba: num_layers={params.num_layers}, but the model has {depth} layers")
        if layers is not None and max(layers, default=0) >= depth:
            raise UserError(f"decimamba: layers={list(layers)}, but the model has layers 0 to {depth - 1}")
        if params.l_base is not None and params.l_base < recipe.eval_queries:
            raise UserError(
                f"decimamba: l_base={params.l_base} is below the {recipe.eval_queries} protected positions "
                f"(queries). Choose l_base of at least {recipe.eval_queries}, or fewer --eval-queries."
            )

    def calibration_length(self, length: int, train_length: int) -> int | None:
        """Layers are chosen once, for all lengths."""
        return train_length if self.params.given_layers is None else None

    def drawn_lengths(self, fitted_at: int, train_length: int) -> tuple[int, ...]:
        """The grid of lengths."""
        return tuple(multiple * fitted_at for multiple in GRID)

    def calibrate(self, model: Model, data: CalibrationData, length: int) -> dict[str, Tensor]:
        """The `num_layers` layers of largest mean distance relative to the length, over a grid of lengths."""
        distance = torch.zeros(len(model.backbone.blocks), dtype=torch.float64)
        undisturbed = model.intervention
        for drawn in self.drawn_lengths(length, data.train_length):
            batch = data.draw("validation", self.params.items, drawn)
            seen = MeanDistance()
            model.intervention = Composed([undisturbed, seen])
            try:
                data.loss(model, batch, {})
            finally:
                model.intervention = undisturbed
            for layer, tokens in seen.by_layer().items():
                distance[layer] += tokens / drawn
        chosen = distance.sort(descending=True, stable=True).indices[: self.params.num_layers]
        return {"keep_layers": chosen.sort().values}

    def intervention(self, train_length: int, d_model: int) -> ScanIntervention:
        """The choice of tokens."""
        return _Decimated(self.params, train_length)


class _Decimated(ScanIntervention):
    def __init__(self, params: DeciMamba.Params, train_length: int) -> None:
        released = params.protocol == "as_released"
        self.params, self.default_l_base = params, RELEASED_L_BASE if released else train_length
        self.apply_in_decode = not released  # no difference: a decoded token is protected
        self.num_protected, self.l_base = 0, 0
        self.use({})

    def use(self, fitted: dict[str, Tensor]) -> None:
        """Take the layers that were chosen; without any, those asked for."""
        found = tuple(fitted["keep_layers"].tolist()) if "keep_layers" in fitted else ()
        given = self.params.given_layers
        self.layers = found if given is None else given

    def begin(self, mode: Mode, length: int | Tensor, num_protected: int) -> None:
        """Keep what is protected; rest where no layer would drop a token."""
        params = self.params
        trained = params.train_l_base if mode == "train" and params.train_l_base else params.l_base
        self.l_base, self.num_protected = trained or self.default_l_base, num_protected
        self.resting = all(self._num_kept(rank, int(length)) >= length for rank in range(len(self.layers)))

    def keep(self, layer: int, delta: Tensor, x: Tensor) -> Tensor | None:
        """Indices of the tokens of largest score and of the protected ones; None if that is all of them.

        A token whose Δ is 0 in all channels is not there (masked): a sample keeps what it would keep without
        such tokens, and they fill up what other samples of the batch keep more.
        """
        batch, length = delta.shape[:2]
        free = length - self.num_protected
        if layer not in self.layers or free <= 0:
            return None
        rank = self.layers.index(layer)
        kept = self._num_kept(rank, free)
        if kept >= free:
            return None
        delta, x = delta.detach()[:, :free], x.detach()[:, :free]
        there = delta.amax(dim=-1) > 0
        scores = self._scores(layer, delta, x).masked_fill(~there, -torch.inf)
        present = there.sum(dim=1, keepdim=True)
        own = torch.as_tensor(self._wanted(rank, present.double()), device=delta.device).long()
        own = torch.minimum(present, own.clamp(min=self.params.min_seq_len))
        place = torch.arange(kept, device=delta.device)
        place = place + (present - own) * (place >= own)
        order = scores.sort(dim=1, descending=True, stable=True).indices
        chosen = order.gather(1, place).sort(dim=1).values
        protected = torch.arange(free, length, device=delta.device).expand(batch, -1)
        return torch.cat([chosen, protected], dim=1)

    def _num_kept(self, rank: int, free: int) -> int:
        return min(free, max(int(self._wanted(rank, free)), self.params.min_seq_len))

    def _wanted(self, rank: int, free: int | Tensor) -> float | Tensor:
        """Of `free` tokens, before rounding down and limits."""
        if self.params.count == "top_k_percent":
            return free * self.params.percent / 100
        return self.l_base * self.params.beta**rank

    def _scores(self, layer: int, delta: Tensor, x: Tensor) -> Tensor:
        """`(batch, free)`; ties go to the earlier token, since the sort is stable."""
        if self.params.score == "mean":
            return delta.mean(dim=-1)
        if self.params.score == "random":
            rng = torch.Generator().manual_seed(layer)
            backwards = torch.rand(delta.shape[1], generator=rng)  # padding on the left must not shift it
            return backwards.flip(0).to(delta.device).expand(len(delta), -1)
        return torch.linalg.vector_norm(delta if self.params.score == "l2" else x, dim=-1)
