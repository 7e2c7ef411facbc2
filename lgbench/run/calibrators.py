"""Fit a handful of numbers to a loss: by gradients, or by simultaneous perturbation where those are too dear.

Both start where they are told, keep the best iterate by the loss that they are given, and treat a loss that
is not finite as infinitely bad.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

Objective = Callable[[Tensor], float]
"""Loss of some values; adds its gradient to `values.grad` where they require one."""

Calibrator = Callable[..., Tensor]
"""`adamw` or `spsa`."""


def adamw(
    objective: Objective,
    start: Tensor,
    *,
    learning_rate: float,
    steps: int,
    low: float,
    high: float = math.inf,
    keep_best: bool = True,
) -> Tensor:
    """Descend along gradients: AdamW without weight decay, gradient norm clipped at 1.

    Args:
        objective: what to minimise.
        start: first iterate.
        learning_rate: constant.
        steps: updates; the objective is evaluated once more.
        low: smallest value allowed, after each step; likewise `high`.
        keep_best: return the iterate with the least loss, `start` included; else the last one.
    """
    values = start.detach().clone().requires_grad_()
    optimizer = torch.optim.AdamW([values], lr=learning_rate, weight_decay=0.0)
    best_loss, best = math.inf, start.detach().clone()
    for step in range(steps + 1):
        optimizer.zero_grad()
        loss = objective(values if step < steps else values.detach())
        if loss < best_loss:
            best_loss, best = loss, values.detach().clone()
        if step < steps:
            values.grad = torch.zeros_like(values) if values.grad is None else values.grad.nan_to_num(0, 0, 0)
            nn.utils.clip_grad_norm_([values], 1.0)
            optimizer.step()
            values.data.clamp_(low, high)
    return best if keep_best else values.detach()


def spsa(
    objective: Objective,
    start: Tensor,
    *,
    learning_rate: float,
    steps: int,
    low: float,
    high: float = math.inf,
    spread: float = 0.1,
    seed: int = 0,
    keep_best: bool = True,
) -> Tensor:
    """Simultaneous perturbation: two losses along one random direction of ±1 estimate the whole gradient.

    Each step goes on from the best of the two perturbed vectors and the updated one, as published. Step size
    `learning_rate` cos(πx/198), perturbation `spread` / (1 + x)^0.1 in step x.
    Source: Spall, IEEE TAC 37 (1992); constants of the released MambaExtend. Cost: three losses a step.

    Args:
        objective: what to minimise; asked for values that require no gradient.
        start: first iterate.
        learning_rate: of the first step.
        steps: number of steps.
        low: smallest value allowed; likewise `high`.
        spread: size of the first perturbation.
        seed: of the directions.
        keep_best: return the best vector of all steps, `start` included; else the last step's.
    """
    rng = torch.Generator().manual_seed(seed)

    def loss_of(values: Tensor) -> float:
        loss = objective(values)
        return loss if math.isfinite(loss) else math.inf

    values = start.detach().clone()
    best_loss, best = loss_of(values) if keep_best else math.inf, values
    for step in range(steps):
        reach = spread / (1 + step) ** 0.1
        rate = learning_rate * max(0.0, math.cos(math.pi * step / 198))
        signs = (torch.randint(2, values.shape, generator=rng) * 2 - 1).to(values)
        above, below = (values + reach * signs).clamp(low, high), (values - reach * signs).clamp(low, high)
        loss_above, loss_below = loss_of(above), loss_of(below)
        slope = (loss_above - loss_below) / (2 * reach)
        if math.isfinite(slope):
            values = (values - rate * slope * signs).clamp(low, high)
        candidates = ((loss_of(values), values), (loss_above, above), (loss_below, below))
        loss, values = min(candidates, key=lambda pair: pair[0])
        if loss < best_loss:
            best_loss, best = loss, values
    return best if keep_best else values


def fit_logarithms(
    fit: Calibrator,
    objective: Objective,
    judge: Objective,
    *,
    starts: Sequence[Tensor],
    **options: float,
) -> Tensor:
    """Search the logarithms of positive values from several starts, and let other items choose.

    Steps of equal length in log s reach 1 / 128 as easily as 128, and no floor is needed.

    Args:
        fit: the calibrator.
        objective: what to minimise, of the values.
        judge: chooses among the best iterates of all searches and the first start, which wins a tie.
        starts: first iterates, positive; the first one is what no fit at all would give.
        options: of the calibrator, from each start; its steps are in logarithms.
    """
    unlimited = partial(fit, _of_logarithms(objective), low=-math.inf, **options)
    found = [unlimited(start.log()).exp() for start in starts]
    candidates = [starts[0], *found]
    losses = [judge(values) for values in candidates]
    losses = [loss if math.isfinite(loss) else math.inf for loss in losses]
    return candidates[losses.index(min(losses))]


def _of_logarithms(objective: Objective) -> Objective:
    """The objective of log values, gradient included."""

    def loss(logs: Tensor) -> float:
        values = logs.detach().exp().requires_grad_(logs.requires_grad)
        found = objective(values)
        if values.grad is not None:
            logs.grad = values.grad * values.detach()
        return found

    return loss
