"""The grid of a plan: which recipes a task is run with, besides methods, backbones and seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise, product
from typing import Any

from lgbench.errors import UserError
from lgbench.plan.options import axes
from lgbench.plan.params import PluginRequest
from lgbench.recipe import Recipe


class Axes:
    """Grid axes besides task, method and seed; None keeps the preset's number.

    Args:
        backbone: what does not apply to one is left out.
        d_state: state sizes of the backbones.
        eval_at_steps: evaluate these checkpoints along each training, and its end.
        branch_decay_at: see `branch`; these trainings come beside each one of the grid.
        numbers: values by field of the recipe, see `lgbench.plan.options.axes`.

    Raises:
        UserError: training lengths that do not increase.
    """

    def __init__(
        self,
        *,
        backbone: Sequence[PluginRequest] | None = None,
        d_state: Sequence[int] | None = None,
        eval_at_steps: Sequence[int] | None = None,
        branch_decay_at: Sequence[int] | None = None,
        **numbers: Sequence[Any] | None,
    ) -> None:
        self.backbone, self.d_state = backbone, d_state
        self.eval_at_steps, self.branch_decay_at = eval_at_steps or (), branch_decay_at or ()
        self.numbers = {name: values for name, values in numbers.items() if values is not None}
        lengths = self.numbers.get("train_length", ())
        if any(a >= b for a, b in pairwise(lengths)):
            raise UserError(f"--train-length must be increasing, got {','.join(map(str, lengths))}")

    def recipes(
        self, base: Recipe, at_train_length: Callable[[Recipe, int], Recipe]
    ) -> Iterator[tuple[Recipe, Sequence[int]]]:
        """Recipe, and steps to evaluate besides the last, at each point; the last field varies fastest.

        Args:
            base: numbers of the preset.
            at_train_length: gives the numbers of the preset at another training length.
        """
        names = [name for name in axes(type(base)) if name in self.numbers]
        for values in product(*(self.numbers[name] for name in names)):
            point = dict(zip(names, values, strict=True))
            length = point.get("train_length", base.train_length)
            at = base if length == base.train_length else at_train_length(base, length)
            recipe = replace(at, **point)
            yield recipe, self.eval_at_steps
            for step in self.branch_decay_at:
                yield branch(recipe, step), ()


def branch(recipe: Recipe, step: int) -> Recipe:
    """The training that is like this one up to `step` and whose learning rate falls from there on.

    The fall takes the same share of its steps as of the recipe's. Its end shows what a training of that
    length reaches; weights of the long training at `step` do not, since their learning rate is still high.

    Raises:
        UserError: the learning rate never falls, or does so before `step`.
    """
    falls = recipe.decay_from * recipe.train_steps
    if recipe.decay_from == 1:
        raise UserError(
            f"--branch-decay-at {step}: the learning rate of this training never falls; give the fraction of "
            "its steps from which it shall, e.g. --decay-from 0.5"
        )
    if not 0 < step < falls:
        raise UserError(
            f"--branch-decay-at {step} is not between the beginning of the training and the step from which "
            f"its learning rate falls, {falls:,.0f} of {recipe.train_steps:,}"
        )
    return replace(recipe, train_steps=round(step / recipe.decay_from))
