"""Compare every series with every other on the same seeds and items, and correct for how often one looks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from lgbench.stats.intervals import Estimate, from_squares
from lgbench.stats.scores import Floats

ALPHA = 0.05


def all_pairs(tables: Sequence[Floats]) -> Estimate:
    """Paired differences of all series: entry (a, b) is the mean of a minus that of b, on their common seeds.

    The effects of a difference are differences of effects, so the sums of squares of all pairs follow from
    inner products; nothing is done pair by pair.

    Args:
        tables: for each series `(num_seeds, num_clusters)`, its seeds being 0, 1, 2, … and the clusters the
            same for all.

    Returns:
        an estimate of shape `(num_series, num_series)`; see `lgbench.stats.intervals.estimate`.
    """
    seeds = np.array([len(table) for table in tables])
    shape = (len(tables), len(tables))
    mean, variance, freedom = np.zeros(shape), np.full(shape, np.nan), np.ones(shape)
    common = np.minimum.outer(seeds, seeds)
    for num in np.unique(seeds).tolist():
        members = np.flatnonzero(seeds >= num)
        found = _pairs(np.stack([tables[index][:num] for index in members.tolist()]))
        block = np.ix_(members, members)
        now = common[block] == num
        for whole, part in ((mean, found.mean), (variance, found.variance), (freedom, found.freedom)):
            whole[block] = np.where(now, part, whole[block])
    return Estimate(mean, variance, freedom)


def _pairs(values: Floats) -> Estimate:
    """`values` is `(num_series, num_seeds, num_clusters)`."""
    num_series, num_seeds, num_clusters = values.shape
    mean = values.mean(axis=(1, 2))
    seeds = values.mean(axis=2) - mean[:, None]
    clusters = values.mean(axis=1) - mean[:, None]
    rest = values - mean[:, None, None] - seeds[:, :, None] - clusters[:, None, :]
    of_seeds, of_clusters, of_rest = (
        _squared_distances(part.reshape(num_series, -1)) for part in (seeds, clusters, rest)
    )
    return from_squares(mean[:, None] - mean, of_seeds, of_clusters, of_rest, num_seeds, num_clusters)


def _squared_distances(effects: Floats) -> Floats:
    """|e_a − e_b|² of all pairs of rows; exactly 0 below what rounding can tell from it."""
    inner = effects @ effects.T
    sizes = np.diag(inner)
    squared = sizes[:, None] + sizes - 2 * inner
    return np.where(squared > 1e-12 * (sizes[:, None] + sizes), squared, 0.0)


def holm(p_values: ArrayLike) -> Floats:
    """Adjusted p-values of one family of tests (Holm, Scandinavian Journal of Statistics 6, 1979)."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    steps = p[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def all_adjusted(pairs: Estimate) -> Floats:
    """Adjust the p-values of all pairs as one family; `(num_series, num_series)`, 1 on the diagonal."""
    upper = np.triu_indices(len(pairs.mean), 1)
    adjusted = np.ones_like(pairs.mean)
    adjusted[upper] = holm(pairs.p_value()[upper])
    return np.minimum(adjusted, adjusted.T)


def detectable(half_widths: ArrayLike) -> float:
    """The smallest difference that could have been seen: the median half-width of the paired intervals.

    A true difference of this size is found about every second time; NaN without intervals.
    """
    half = np.asarray(half_widths, dtype=float)
    half = half[np.isfinite(half)]
    return float(np.median(half)) if half.size else float("nan")
