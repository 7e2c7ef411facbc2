"""Say with numbers how far a curve holds: normalised score, effective length, area, bootstrap intervals.

Pure numpy. A *curve* is the mean of a metric at increasing evaluation lengths; *replicates* are what that
mean would have been with other seeds and other items, `(NUM_RESAMPLES, …)`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

NUM_RESAMPLES = 1000
HOLDS_ABOVE = 0.85
"""A curve holds at a length while its score is above this share of the score at the training length."""


@lru_cache(maxsize=8)
def resample_counts(num: int, name: str) -> Floats:
    """How often each of `num` things is drawn in each bootstrap sample, `(NUM_RESAMPLES, num)`.

    The draws depend on `num` and `name` alone: things with equal names are drawn together, whoever asks, so
    that methods, lengths and seeds measured on the same items stay paired. Each row sums to `num`.
    """
    digest = hashlib.sha256(f"{num} {name}".encode()).digest()
    generator = np.random.default_rng(int.from_bytes(digest[:8], "little"))
    drawn = generator.integers(num, size=(NUM_RESAMPLES, num)) + num * np.arange(NUM_RESAMPLES)[:, None]
    return np.bincount(drawn.ravel(), minlength=NUM_RESAMPLES * num).reshape(NUM_RESAMPLES, num).astype(float)


def combined(means: ArrayLike, combine: str) -> Floats:
    """A metric from the means of its items: themselves, or for "exp_mean" (perplexity) their exponential."""
    return np.exp(np.asarray(means, dtype=float)) if combine == "exp_mean" else np.asarray(means, dtype=float)


def bootstrap_means(
    items: Mapping[int, tuple[ArrayLike, str]], seeds: Sequence[int], combine: str = "mean"
) -> Floats:
    """Replicates of "mean over seeds of the mean over items", `(NUM_RESAMPLES,)`.

    Two levels: seeds are drawn with replacement, and so are the items. Seeds evaluated on the same items
    (equal hashes) get the same draw of them, since an easy draw is easy for all.

    Args:
        items: seed → (values of its items, hash of these items); the seeds that were measured at this point.
        seeds: all seeds of the method, in a fixed order, so that the points of a curve share the draw of
            seeds. A seed that was not measured here counts for nothing; a sample of such seeds alone gives
            NaN.
        combine: what becomes of the mean over the items of a seed, see `combined`.
    """
    draws = resample_counts(len(seeds), "seeds")
    weights = np.stack([draws[:, seeds.index(seed)] for seed in items], axis=1)
    means = np.stack(
        [
            resample_counts(len(values), name) @ np.asarray(values, dtype=float) / len(values)
            for values, name in items.values()
        ],
        axis=1,
    )
    means = combined(means, combine)
    total = weights.sum(axis=1)
    return np.divide((weights * means).sum(axis=1), total, out=np.full(len(total), np.nan), where=total > 0)


def interval(replicates: ArrayLike) -> tuple[float, float]:
    """95 % percentile interval, each end a value that occurred; NaN replicates are left out."""
    values = np.asarray(replicates, dtype=float)
    values = values[np.isfinite(values)]
    if not values.size:
        return float("nan"), float("nan")
    low, high = np.quantile(values, [0.025, 0.975], method="inverted_cdf")
    return float(low), float(high)


def normalised_score(value: ArrayLike, chance: ArrayLike, best: ArrayLike, combine: str = "mean") -> Floats:
    """0 at chance or worse, 1 at the best possible value, whatever the direction of the metric.

    Metrics that are the exponential of a mean (perplexity) are compared as that mean, in nats.
    """
    value, chance, best = (np.asarray(a, dtype=float) for a in (value, chance, best))
    if combine == "exp_mean":
        value, chance, best = np.log(value), np.log(chance), np.log(best)
    return np.clip((value - chance) / (best - chance), 0, 1)


def reference_index(lengths: Sequence[int], train_length: int) -> int | None:
    """Where in increasing `lengths` the training length is, or the nearest one below; None without one."""
    below = [index for index, length in enumerate(lengths) if length <= train_length]
    return below[-1] if below else None


def effective_length(lengths: Sequence[int], scores: ArrayLike, train_length: int) -> Floats:
    """How far the score holds, as a multiple of the training length.

    The largest evaluated length up to which the score stays above `HOLDS_ABOVE` of the score at the training
    length (at the nearest evaluated length below, if that one is missing). The first length that fails ends
    it, even if the score recovers later. 0 where the score at the training length is 0: nothing was learned
    that could hold.

    Args:
        lengths: evaluated lengths, increasing; at least one is at most `train_length`.
        scores: normalised scores, `(…, num_lengths)`.
        train_length: training length, tokens.

    Returns:
        multiples of `train_length`, `(…)`.
    """
    start = reference_index(lengths, train_length)
    if start is None:
        raise ValueError(f"no evaluated length up to the training length {train_length}; there are {lengths}")
    beyond = np.asarray(scores, dtype=float)[..., start:]
    holds = np.logical_and.accumulate(beyond > HOLDS_ABOVE * beyond[..., :1], axis=-1)
    multiples = np.concatenate([[0.0], np.asarray(lengths[start:], dtype=float) / train_length])
    return multiples[holds.sum(axis=-1)]


def area(lengths: Sequence[int], scores: ArrayLike, train_length: int, end: float = float("inf")) -> Floats:
    """Mean score beyond the training length: the area under it over log2(length) by its width.

    From the training length (or the nearest evaluated one below) to `end` or the largest evaluated length,
    by trapezoids. NaN where nothing beyond was evaluated.

    Args:
        lengths: evaluated lengths, increasing; at least one is at most `train_length`.
        scores: normalised scores, `(…, num_lengths)`.
        train_length: training length, tokens.
        end: tokens; between evaluated lengths the score is taken as linear in log2(length).

    Returns:
        areas in [0, 1], `(…)`.
    """
    start = reference_index(lengths, train_length)
    if start is None:
        raise ValueError(f"no evaluated length up to the training length {train_length}; there are {lengths}")
    octaves = np.log2(np.asarray(lengths[start:], dtype=float))
    beyond = np.asarray(scores, dtype=float)[..., start:]
    last = np.log2(end)
    if octaves[0] < last < octaves[-1]:
        after = int(np.searchsorted(octaves, last))
        share = (last - octaves[after - 1]) / (octaves[after] - octaves[after - 1])
        at_end = (1 - share) * beyond[..., after - 1] + share * beyond[..., after]
        octaves = np.append(octaves[:after], last)
        beyond = np.concatenate([beyond[..., :after], at_end[..., None]], axis=-1)
    if len(octaves) < 2:
        return np.full(beyond.shape[:-1], np.nan)
    trapezoids = (beyond[..., 1:] + beyond[..., :-1]) / 2 * np.diff(octaves)
    return trapezoids.sum(axis=-1) / (octaves[-1] - octaves[0])
