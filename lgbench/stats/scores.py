"""Score a curve: how good a model is within and beyond its training length, as numbers in [0, 1].

A *curve* has one normalised score for each increasing evaluation length. Lengths are compared as octaves,
log2 L. All functions take curves `(…, num_lengths)` and work on the last axis; they are our own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

HOLDS_ABOVE = 0.85
"""A curve holds while its score is at least this share of its best score within the training range."""
THRESHOLDS = tuple(round(0.05 * k, 2) for k in range(10, 20))
"""Shares of the profile of effective lengths: 0.50, 0.55, … 0.95."""
MAX_GAP = 2.5
"""Largest ratio of neighbouring lengths of a grid; what lies between them is taken as linear in octaves."""
_ROUNDING = 1e-9


def normalise(value: ArrayLike, chance: ArrayLike, best: ArrayLike, combine: str = "mean") -> Floats:
    """Put a metric on one scale: 0 at chance, 1 at the best value, below 0 where worse than chance.

    Metrics that are the exponential of a mean (perplexity) are compared as that mean, in nats. The score z is
    this number clipped to [0, 1].

    Args:
        value: of the metric.
        chance: of the best answer that ignores the context; different from `best`.
        best: possible value.
        combine: "mean", or "exp_mean", for which all three are positive.
    """
    found, worst, ideal = (np.asarray(a, dtype=np.float64) for a in (value, chance, best))
    if combine == "exp_mean":
        found, worst, ideal = np.log(found), np.log(worst), np.log(ideal)
    z: Floats = (found - worst) / (ideal - worst)
    return z


def octave_weights(lengths: ArrayLike, low: float, high: float) -> Floats | None:
    """Weights w_L with which Σ w_L z(L) is the mean score over the octaves from `low` to `high`.

    Trapezoids in log2 L; a limit between two lengths is interpolated between them. A grid that does not
    reach both limits, or has a gap above `MAX_GAP` between them, has no such mean.

    Args:
        lengths: evaluated lengths, increasing.
        low: first length of the mean, inclusive.
        high: last length; equal to `low` for the score at one length.

    Returns:
        weights `(num_lengths,)`, not negative, whose sum is 1; None without such a mean.
    """
    octaves = np.log2(np.asarray(lengths, dtype=float))
    start, end = np.log2(low), np.log2(high)
    if not octaves.size or octaves[0] > start + _ROUNDING or octaves[-1] < end - _ROUNDING:
        return None
    if _widest_gap(octaves, start, end) > np.log2(MAX_GAP) + _ROUNDING:
        return None
    knots = np.unique(np.clip([start, end, *octaves], start, end))
    hats = np.stack([np.interp(knots, octaves, unit) for unit in np.eye(len(octaves))])
    if len(knots) == 1 or end - start < _ROUNDING:
        return hats[:, 0]
    weights: Floats = np.trapezoid(hats, knots, axis=1) / (end - start)
    return weights


def _widest_gap(octaves: Floats, start: float, end: float) -> float:
    """Between neighbouring lengths, octaves, of those pairs that a mean from `start` to `end` reads."""
    left, right = octaves[:-1], octaves[1:]
    is_read = (right > start + _ROUNDING) & (left < end - _ROUNDING)
    if end - start < _ROUNDING:
        is_read = (left < start - _ROUNDING) & (right > start + _ROUNDING)
    return float((right - left)[is_read].max(initial=0.0))


def in_range_best(lengths: ArrayLike, scores: ArrayLike, train_length: float) -> Floats:
    """The best score up to the training length, `(…)`; NaN where no such length was evaluated."""
    within = np.asarray(lengths, dtype=float) <= train_length
    values = np.where(within, np.asarray(scores, dtype=float), np.nan)
    if not within.any():
        return np.full(values.shape[:-1], np.nan)
    best: Floats = np.where(np.isnan(values), -np.inf, values).max(axis=-1)
    return best


def effective_length(
    lengths: Sequence[float], scores: ArrayLike, train_length: float, share: ArrayLike = HOLDS_ABOVE
) -> tuple[Floats, NDArray[np.bool_]]:
    """Say up to where one curve holds: its first downward crossing of a share of its best in-range score.

    Looked for from the length of that best score on, interpolated in log2 L.

    Args:
        lengths: evaluated lengths, increasing.
        scores: clipped scores `(num_lengths,)`.
        train_length: the unit of the answer.
        share: of the best in-range score, one or several `(…)`.

    Returns:
        the crossings as multiples of `train_length` `(…)`, and whether the curve never crossed, in which case
        the multiple is that of the longest length. NaN where nothing was learned that could hold.
    """
    octaves, scores = np.log2(np.asarray(lengths, dtype=float)), np.asarray(scores, dtype=float)
    share = np.asarray(share, dtype=float)
    best = float(in_range_best(lengths, scores, train_length))
    if not best > 0:
        return np.full(share.shape, np.nan), np.zeros(share.shape, bool)
    level = share * best
    start = int(np.argmax(np.where(np.asarray(lengths) <= train_length, scores, -np.inf)))
    below = scores[start:] < level[..., None] - _ROUNDING
    is_open = ~below.any(axis=-1)
    after = np.where(is_open, len(octaves) - 1, start + below.argmax(axis=-1))
    before = np.maximum(after - 1, start)
    drop = np.where(is_open | (scores[before] <= scores[after]), 1.0, scores[before] - scores[after])
    part = np.where(is_open, 1.0, (scores[before] - level) / drop)
    crossing = octaves[before] + part * (octaves[after] - octaves[before])
    return 2**crossing / train_length, np.asarray(is_open)


def retention_and_gain(
    lengths: ArrayLike, scores: ArrayLike, train_length: float, weights: ArrayLike
) -> tuple[Floats, Floats]:
    """Split the change beyond the training length into what is lost and what is won.

    Means over octaves of min(0, S(L) − b) and max(0, S(L) − b), where b is the best in-range score.
    *Retention* is b plus the first, that is the mean of min(S(L), b).

    Args:
        lengths: evaluated lengths, increasing.
        scores: unclipped, so that worse than chance shows, `(…, num_lengths)`.
        train_length: last length of the training range.
        weights: of the octaves from there to the horizon, see `octave_weights`.

    Returns:
        retention and gain, each `(…)`.
    """
    scores, weights = np.asarray(scores, dtype=float), np.asarray(weights, dtype=float)
    best = in_range_best(lengths, scores, train_length)[..., None]
    known = np.where(weights > 0, scores, 0.0)
    retention = (np.minimum(known, best) * weights).sum(axis=-1)
    gain = (np.maximum(0.0, known - best) * weights).sum(axis=-1)
    return retention, gain


def reference_index(lengths: Sequence[int], train_length: int) -> int | None:
    """Where in increasing `lengths` the training length is, or the nearest one below; None without one."""
    below = [index for index, length in enumerate(lengths) if length <= train_length]
    return below[-1] if below else None
