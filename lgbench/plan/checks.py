"""Refuse numbers that do not fit, before any training."""

from __future__ import annotations

from itertools import pairwise

from lgbench.errors import UserError
from lgbench.method import Method
from lgbench.recipe import Recipe, described
from lgbench.run.calibrate import fitted_lengths
from lgbench.task import Task


def check_numbers(recipe: Recipe) -> None:
    """Refuse numbers of a recipe that are out of the range that its field says, or contradict each other."""
    for name in ("eval_lengths", "query_grid"):
        grid = getattr(recipe, name)
        if any(n < 1 for n in grid) or any(a >= b for a, b in pairwise(grid)):
            option = "--" + name.replace("_", "-")
            raise UserError(f"{option} must be positive and increasing, got {','.join(map(str, grid))}")
    if not recipe.eval_lengths:
        raise UserError("--eval-lengths is empty; give at least one length, e.g. --eval-lengths 64,256,1024")
    low, high = recipe.train_queries
    if not 1 <= low <= high:
        raise UserError(f"--train-queries must be at least 1 and increasing, got {low},{high}")
    for field, said in described(type(recipe)):
        value = getattr(recipe, field.name)
        as_it_is = field.name == "train_steps" and value == 0 and (recipe.pretrained or recipe.weights)
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int | float) and not as_it_is and (wanted := said.refuses(number)):
                raise UserError(f"--{field.name.replace('_', '-')} must be {wanted}, got {number}")
    if recipe.stage_batches and len(recipe.stage_batches) != len(recipe.stages):
        raise UserError(
            f"stage_batches has {len(recipe.stage_batches)} numbers for {len(recipe.stages)} stages"
        )


def check_fits(recipe: Recipe, task: Task) -> None:
    """Refuse what only some tasks and backbones have."""
    has_tokens = task.generates or task.lm_metric is not None
    if recipe.lm_weight and not has_tokens:
        raise UserError(f"--lm-weight {recipe.lm_weight:g}: this task has no tokens to predict")
    if recipe.pretrained and not has_tokens:
        raise UserError("--pretrained: is a language model, and one of the tasks has no tokens")


def check_calibration(method: Method, name: str, recipe: Recipe, task: Task) -> None:
    """Refuse lengths at which a method cannot be fitted, since that would show after the training only."""
    longest = task.longest_training(recipe.train_queries[1])
    for length, fitted_at in fitted_lengths(method, recipe).items():
        for (part_name, part), at in zip(method.parts(name), fitted_at, strict=True):
            for drawn in () if at is None else part.drawn_lengths(at, recipe.train_length):
                if drawn < task.min_length:
                    raise UserError(
                        f"method '{part_name}' would be fitted at {drawn} {task.length_unit}; the shortest "
                        f"context of this task has {task.min_length}"
                    )
                if longest is not None and drawn > longest:
                    raise UserError(
                        f"method '{part_name}' would be fitted on training contexts of {drawn:,} "
                        f"{task.length_unit} for its evaluation at {length:,}; the longest that can be drawn "
                        f"has {max(0, longest):,} ({task.data_source})"
                    )


def check_range(name: str, high: int, recipe: Recipe, task: Task) -> None:
    """Refuse training contexts up to `high` that a method makes longer than those that there are."""
    longest = task.longest_training(recipe.train_queries[1])
    if longest is not None and high > longest:
        raise UserError(
            f"method '{name}' would be trained on contexts of up to {high:,} "
            f"{task.length_unit}; the longest that can be drawn has {max(0, longest):,} ({task.data_source})"
        )
