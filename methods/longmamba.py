"""Let channels that remember everything see only tokens with large time steps, as many as in training.

    global channels     those whose state survives a whole training-length sequence: τ > c_thr
    Δ' = Δ 1[Δ > θ(L)]  in those channels; Δ = 0 leaves the state untouched, so the token is not there

θ(L) is where the largest Δ of a sequence of length L, profile stretched from L_train, add up to their sum
over L_train. Source: Ye et al., "LongMamba" (arXiv:2504.16053), variant `dt_thre`. Survival is that of the
release on Mamba-2, τ = exp(A Σ_t Δ_t) of each head, and on Mamba that of its earlier code, τ = Π_t mean_n
exp(Δ_t A_n). `protocol=as_released` has the release's numbers: statistics over 2,000 tokens, no filter below
3,000 nor on queries after a kept state, c_thr 0.05; it is not for tasks whose lengths are no
tokens. Not the fine-tune of the same name.
"""

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from lgbench.errors import UserError
from lgbench.intervention import Composed
from lgbench.method import Method, Mode, ScanIntervention
from lgbench.models.model import Model
from lgbench.run.calibrate import CalibrationData
from lgbench.task import Recipe, Task

TABLE = (1, 1.5, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 10, 12, 15, 18, 22, 27, 32, 40, 48, 60, 72, 84, 96)
"""Lengths of the threshold table as multiples of L_train: the released 2K to 192K at L_train = 2K."""


RELEASED_TRAIN_LENGTH, RELEASED_FROM = 2000, 3000
"""Tokens for which the released tables are made, and from which on the released code filters."""


class LongMamba(Method):
    """Trains like vanilla; a pass over training items sets the thresholds; acts beyond L_train alone."""

    class Params(Method.Params):
        c_thr: float | None = Field(
            None,
            ge=0,
            le=1,
            description="least survival of a global channel; if not set 1e-30, released 0.05",
        )
        rho: float = Field(0.1, ge=0, le=1, description="share of largest time steps that statistics clamp")
        strength: float = Field(1.0, ge=0, le=100, description="factor on the thresholds; 0 filters nothing")
        over: Literal["avg", "max"] = Field("avg", description="how statistics of the items are combined")
        table_up_to: float = Field(96.0, ge=1, le=4096, description="end of the table, multiples of L_train")
        items: int = Field(20, ge=1, description="training items that statistics are taken from")
        protocol: Literal["clean", "as_released"] = Field(
            "clean", description="as_released: the released numbers in place of L_train"
        )

    trains_like = "vanilla"
    prefix_exact = False
    needs_length = True
    calibration_free = frozenset({"strength", "c_thr", "table_up_to"})

    @property
    def protocol(self) -> str:
        """See `Params`."""
        return self.params.protocol

    def unsupported(self, task: Task) -> str | None:
        """As released, its lengths are tokens."""
        if self.protocol == "clean" or task.length_unit == "tokens":
            return None
        return (
            f"longmamba's released numbers, {RELEASED_TRAIN_LENGTH:,} and {RELEASED_FROM:,}, are tokens, "
            f"lengths of this task are {task.length_unit}; use protocol=clean"
        )

    def check(self, recipe: Recipe, backbone: str) -> None:
        """Refuse lengths beyond the table; the released code takes its last entry for them."""
        if self.protocol == "as_released":
            return
        end = round(self.params.table_up_to * recipe.train_length)
        if recipe.eval_lengths[-1] > end:
            raise UserError(
                f"longmamba: the threshold table ends at {end} tokens ({self.params.table_up_to:g} times "
                f"L_train), but {recipe.eval_lengths[-1]} are asked for. Raise table_up_to."
            )

    def calibration_length(self, length: int, train_length: int) -> int | None:
        """The nearest length of the table; None where nothing is filtered."""
        if not _acts(self.params, length, train_length):
            return None
        table = self._table(_profile_length(self.params, train_length))
        return min(table, key=lambda known: abs(known - length))

    assumed_length = calibration_length

    def drawn_lengths(self, fitted_at: int, train_length: int) -> tuple[int, ...]:
        """One, whatever the threshold is for."""
        return (_profile_length(self.params, train_length),)

    def calibrate(self, model: Model, data: CalibrationData, length: int) -> dict[str, Tensor]:
        """Threshold and logarithm of the survival of every channel, float32 `(num_layers, channels)` each."""
        (profile,) = self.drawn_lengths(length, data.train_length)
        batch = data.draw("calibration", self.params.items, profile)
        tokens = next(iter(batch.context.values())).shape[1]  # a length may count documents
        seen = _Statistics(round(length * tokens / profile), tokens, self.params)
        undisturbed = model.intervention
        model.intervention = Composed([undisturbed, seen])
        try:
            data.loss(model, batch, {})
        finally:
            model.intervention = undisturbed
        threshold, log_survival = seen.result()
        return {"timestep_threshold": threshold, "timestep_log_survival": log_survival}

    def intervention(self, train_length: int, d_model: int) -> ScanIntervention:
        """The filter on Δ."""
        return _Filtered(self.params, train_length)

    def _table(self, train_length: int) -> list[int]:
        end = self.params.table_up_to
        return [round(m * train_length) for m in (*(m for m in TABLE if m < end), end)]


class _Filtered(ScanIntervention):
    def __init__(self, params: LongMamba.Params, train_length: int) -> None:
        self.params, self.train_length = params, train_length
        self.apply_in_decode = params.protocol == "clean"
        self.use({})

    def use(self, fitted: dict[str, Tensor]) -> None:
        """Take thresholds and survivals; without any, rest."""
        self.threshold = fitted.get("timestep_threshold")
        if self.threshold is not None:
            c_thr = self.params.c_thr
            if c_thr is None:
                c_thr = 1e-30 if self.params.protocol == "clean" else 0.05
            least = math.log(c_thr) if c_thr > 0 else -math.inf
            survives = fitted["timestep_log_survival"] > least
            self.threshold = torch.where(survives, self.params.strength * self.threshold, -1.0)
            if not (self.threshold > 0).any():  # time steps are positive: nothing is filtered
                self.threshold = None

    def begin(self, mode: Mode, length: int | Tensor, num_protected: int) -> None:
        """Rest within the training length."""
        self.resting = self.threshold is None or not _acts(self.params, length, self.train_length)

    def timestep(self, layer: int, delta: Tensor) -> Tensor:
        """Δ `(batch, length, channels)`, zero where a global channel does not let the token in."""
        return delta * (delta > self.threshold[layer].to(delta.device))


class _Statistics(ScanIntervention):
    """Thresholds and survivals of each layer from contexts of training length, whole or in pieces."""

    def __init__(self, length: int, profile: int, params: LongMamba.Params) -> None:
        self.length, self.profile, self.params = length, profile, params
        self.pieces: dict[int, list[Tensor]] = {}
        self.decay: dict[int, Tensor] = {}
        self.reading = False

    def begin(self, mode: Mode, length: int | Tensor, num_protected: int) -> None:
        """Queries are no part of the statistics."""
        self.num_protected = num_protected if mode == "score" else 0
        self.reading = mode != "decode"

    def record(self, layer: int, *, delta: Tensor, A: Tensor, **others: Tensor) -> None:
        """Keep the time steps of the context."""
        if self.reading:
            self.pieces.setdefault(layer, []).append(delta[:, : delta.shape[1] - self.num_protected])
            self.decay[layer] = A

    def result(self) -> tuple[Tensor, Tensor]:
        """Thresholds and log survivals `(num_layers, channels)`, over all items."""
        found = [self._layer(layer) for layer in sorted(self.pieces)]
        return torch.stack([theta for theta, _ in found]), torch.stack([tau for _, tau in found])

    def _layer(self, layer: int) -> tuple[Tensor, Tensor]:
        whole = _join(self.pieces[layer], self.profile)
        top = max(1, int(self.params.rho * whole.shape[1]))
        clamped = whole.minimum(whole.topk(top, dim=1).values[:, -1:])
        each = torch.stack([log_survival(item, self.decay[layer]) for item in clamped])
        thresholds = torch.stack([threshold(item, self.length) for item in clamped])
        if self.params.over == "max":
            return thresholds.amax(dim=0), each.amax(dim=0)
        return thresholds.mean(dim=0), each.logsumexp(dim=0) - math.log(len(each))


def _profile_length(params: LongMamba.Params, train_length: int) -> int:
    """Tokens whose time steps are the budget of longer sequences."""
    return train_length if params.protocol == "clean" else RELEASED_TRAIN_LENGTH


def _acts(params: LongMamba.Params, length: int | Tensor, train_length: int) -> bool:
    return length > train_length if params.protocol == "clean" else length >= RELEASED_FROM


def log_survival(delta: Tensor, A: Tensor) -> Tensor:
    """log Π_t mean_n exp(Δ_t A_n) `(channels,)`, of Δ `(length, channels)`.

    Args:
        delta: after softplus.
        A: `(d_inner, d_state)`; of Mamba-2 `(heads,)`, where this is A Σ_t Δ_t.
    """
    if A.ndim == 1:
        return A * delta.sum(dim=0)
    return (torch.logsumexp(delta.unsqueeze(-1) * A, dim=-1) - math.log(A.shape[1])).sum(dim=0)


def threshold(delta: Tensor, length: int) -> Tensor:
    """θ `(channels,)` for sequences of `length` tokens from Δ `(train_length, channels)`.

    The profile of sorted Δ is stretched to `length`; θ is its value where the running sum first exceeds the
    sum over the training length. 0 where it never does, as for lengths up to the training length.
    """
    if length <= len(delta):
        return delta.new_zeros(delta.shape[1])
    profile = delta.sort(dim=0, descending=True).values
    stretched = F.interpolate(profile.T.unsqueeze(0), size=length, mode="linear", align_corners=True)[0].T
    exceeded = stretched.cumsum(dim=0) > delta.sum(dim=0)
    first = (exceeded.int().argmax(dim=0) + 1).clamp(max=length - 1)
    found = stretched.gather(0, first.unsqueeze(0))[0]
    return torch.where(exceeded.any(dim=0), found, 0.0)


def _join(pieces: list[Tensor], length: int) -> Tensor:
    """Δ `(items, length, d_inner)` from pieces of one batch of items after another."""
    batches, read = [], []
    for piece in pieces:
        read.append(piece)
        if sum(p.shape[1] for p in read) == length:
            batches.append(torch.cat(read, dim=1))
            read = []
    assert not read, "a context was not read to its end"
    return torch.cat(batches)
