"""The two released searches: perplexity by simultaneous perturbation, passkey by gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import cycle

import torch
from lgbench.methods._scaling.params import RELEASED_BATCH, ScalingParams
from torch import Tensor

from lgbench.run.calibrators import Objective, adamw, spsa
from lgbench.task import Batch

FLOOR = 0.01
"""Smallest scale."""


def released_fit(
    params: ScalingParams,
    loss_on: Callable[[Batch], Objective],
    items: Batch,
    *,
    shape: tuple[int, ...],
    lowest: float,
    highest: float,
) -> Tensor:
    """The last iterate of a search for s from random scales, on the device of the items.

    spsa lowers the perplexity of all items. backprop goes through them in batches, again and again.

    Args:
        params: of the method.
        loss_on: the loss of scales on some items, nats.
        items: of the calibration.
        shape: of the scales.
        lowest: first scales are uniform between this and 1.
        highest: no scale becomes larger.
    """
    start = lowest + (1 - lowest) * torch.rand(shape, generator=torch.Generator().manual_seed(0))
    batches = cycle(items.parts(RELEASED_BATCH))
    fit, rate, objective = adamw, 0.1, lambda scales: loss_on(next(batches))(scales)
    if params.calibrator == "spsa":
        fit, rate, objective = spsa, 0.001, _perplexity(loss_on(items))
    return fit(
        objective,
        start.clamp(min=FLOOR).to(items.targets.device),
        learning_rate=params.learning_rate or rate,
        steps=params.steps,
        low=FLOOR,
        high=highest,
        keep_best=False,
    )


def _perplexity(loss: Objective) -> Objective:
    """The exponential of a loss; what is too large for a float is infinite."""

    def found(scales: Tensor) -> float:
        nats = loss(scales)
        return math.exp(nats) if nats < 700 else math.inf

    return found
