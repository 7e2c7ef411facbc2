"""What a training step draws and how fast it learns: by seed, step and stage alone."""

from __future__ import annotations

import numpy as np

from lgbench.plan.cells import Training
from lgbench.task import Recipe


def draw_lengths(training: Training, step: int, newest: int = 0) -> tuple[int, int, int]:
    """Context length and number of queries of a step, uniform and inclusive, and the stage they are from.

    By (seed, step) alone, given the newest stage.
    """
    draw = np.random.default_rng((training.seed, step))
    recipe, stage = training.recipe, newest
    if newest and draw.random() < recipe.revisit:
        stage = int(draw.integers(newest))
    low, high = stage_lengths(training, stage)
    fewest, most = recipe.train_queries
    return int(draw.integers(low, high + 1)), int(draw.integers(fewest, most + 1)), stage


def stage_lengths(training: Training, stage: int) -> tuple[int, int]:
    """Shortest and longest context of a stage, inclusive; without a curriculum those of the training.

    Stages are scaled so that the last one ends where the method's training range ends, but none becomes
    shorter than the shortest context there may be, unless it was before.
    """
    low, high, stages = training.low, training.high, training.recipe.stages
    if not stages:
        return low, high
    scaled = round(stages[stage][0] * high / stages[-1][0])
    high = max(scaled, min(low, stages[stage][0]))
    return min(low, high), high


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, constant, then linear to zero from `decay_from` of the steps on."""
    warm = min(1.0, (step + 1) / recipe.warmup_steps) if recipe.warmup_steps else 1.0
    start = recipe.decay_from * recipe.train_steps
    fall = 1.0 if step < start else (recipe.train_steps - step) / (recipe.train_steps - start)
    return recipe.learning_rate * warm * fall
