"""Drop the tokens that matter least in a few layers, so that later layers see a sequence of trained length.

    in decimating layer number s:  keep the L_base β^s tokens of largest score, in their order, and all
    protected positions; residual, x, z, Δ, B, C are cut together

Source: Ben-Kish et al., arXiv:2406.14528. Score: norm (released code) or mean (paper) of Δ over channels.
Ablations: `random` (the same positions for all samples, so that an answer does not depend on its batch),
`max_norm` (norm of the scan's input; the paper does not say of what), `count=top_k_percent`. On Mamba-2 the
score is over heads. `protocol=as_released`: layer 12 and L_base 2000 if not given, as in the code's passkey
configuration, where the paper has layers 13 to 21; its layer search is not reproduced. Protected is then what
answers are read from: the last token of a prompt, and the labels in training, so that prompts longer than
L_base lose tokens in training, too; texts are trained on in two chunks (`chunks`).
"""

from __future__ import annotations

import torch
from lgbench.methods.decimamba.chunks import answer_in_chunks, is_text
from lgbench.methods.decimamba.intervention import Decimated
from lgbench.methods.decimamba.params import DeciMambaParams
from torch import Tensor

from lgbench.errors import UserError
from lgbench.intervention import Composed
from lgbench.method import Method, ScanIntervention
from lgbench.models.model import Model, TrainingAnswer
from lgbench.probes.mean_distance import MeanDistance
from lgbench.run.calibrate import CalibrationData
from lgbench.task import Batch, Recipe

GRID = (1, 2, 4)
"""Multiples of L_train at which layers are chosen."""


class DeciMamba(Method):
    """Which tokens survive depends on all of them, so each length needs one pass in one piece."""

    Params = DeciMambaParams
    released_version = 2

    prefix_exact = False
    needs_length = True
    train_eagerly = True
    eval_only = frozenset({"num_layers", "items"})
    calibration_free = frozenset({"l_base", "beta", "min_seq_len", "score", "count", "percent"})

    def __init__(self, params: DeciMambaParams | None = None) -> None:
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

    def training_answer(
        self,
        model: Model,
        batch: Batch,
        *,
        length: int | Tensor,
        context_mask: Tensor | None,
        query_mask: Tensor | None,
        read_tokens: bool,
    ) -> TrainingAnswer:
        """As released, texts of which all tokens are learnt are read in two chunks."""
        if self.protocol == "as_released" and self.params.train_with and read_tokens and is_text(batch):
            return answer_in_chunks(model, batch, length)
        return super().training_answer(
            model, batch, length=length, context_mask=context_mask, query_mask=query_mask,
            read_tokens=read_tokens,
        )  # fmt: skip

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
        return Decimated(self.params, train_length)
