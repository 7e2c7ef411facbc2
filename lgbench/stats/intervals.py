"""Say how sure a mean is: seeds and items vary, and the seeds of a benchmark are few.

Three kinds, each for its case: variance components with Student's t for a mean over seeds and items, Wilson's
for shares, and one bootstrap for the items of a single model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from lgbench.stats.scores import Floats

LEVEL = 0.95
MIN_CLUSTERS = 10
"""With fewer clusters than this, these are the world: conclusions are about "these books only"."""
NUM_RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Estimate:
    """Means with their uncertainty, all of one shape.

    Attributes:
        mean: over seeds and clusters.
        variance: of that mean, V; NaN where it cannot be known (one seed).
        freedom: Satterthwaite's degrees of freedom ν, at least 1.
    """

    mean: Floats
    variance: Floats
    freedom: Floats

    def half_width(self) -> Floats:
        """Half of the 95 % interval, by Student's t."""
        found: Floats = special.stdtrit(self.freedom, 0.5 + LEVEL / 2) * np.sqrt(self.variance)
        return found

    def p_value(self) -> Floats:
        """Two-sided, of "the mean is 0"; 1 where the variance is unknown or where mean and variance are 0."""
        with np.errstate(divide="ignore", invalid="ignore"):
            t = np.abs(self.mean) / np.sqrt(self.variance)
            p = 2 * special.stdtr(self.freedom, -t)
        return np.where(np.isnan(p), 1.0, p)


def estimate(values: ArrayLike) -> Estimate:
    """Mean over seeds and clusters with crossed variance components, (seed + cluster + rest).

    V = max(MS_s + MS_c − MS_r, MS_r) / (S·C) and, after Satterthwaite (Biometrics Bulletin 2, 1946),
    ν = (V·S·C)² / [MS_s²/(S−1) + MS_c²/(C−1) + MS_r²/((S−1)(C−1))], at least 1. With fewer than
    `MIN_CLUSTERS` clusters these are fixed: V = MS_s / (S·C), ν = S − 1.

    Args:
        values: `(…, num_seeds, num_clusters)`, finite; clusters of equal weight, see `by_cluster`.
    """
    values = np.asarray(values, dtype=float)
    mean = values.mean(axis=(-2, -1))
    seeds = values.mean(axis=-1) - mean[..., None]
    clusters = values.mean(axis=-2) - mean[..., None]
    rest = values - mean[..., None, None] - seeds[..., :, None] - clusters[..., None, :]
    squares = ((seeds**2).sum(-1), (clusters**2).sum(-1), (rest**2).sum((-2, -1)))
    return from_squares(mean, *squares, *values.shape[-2:])


def from_squares(
    mean: Floats, seeds: Floats, clusters: Floats, rest: Floats, num_seeds: int, num_clusters: int
) -> Estimate:
    """The estimate from sums of squares of the effects of seeds `(S,)`, clusters `(C,)` and of the rest."""
    total, random = num_seeds * num_clusters, num_clusters >= MIN_CLUSTERS
    if num_seeds < 2:
        nothing = np.full_like(mean, np.nan)
        return Estimate(mean, nothing, np.ones_like(mean))
    of_seeds = seeds * num_clusters / (num_seeds - 1)
    if not random:
        return Estimate(mean, of_seeds / total, np.full_like(mean, num_seeds - 1))
    of_clusters = clusters * num_seeds / (num_clusters - 1)
    of_rest = rest / ((num_seeds - 1) * (num_clusters - 1))
    scale = np.maximum(of_seeds + of_clusters - of_rest, of_rest)
    spread = of_seeds**2 / (num_seeds - 1) + of_clusters**2 / (num_clusters - 1)
    spread = spread + of_rest**2 / ((num_seeds - 1) * (num_clusters - 1))
    freedom = np.divide(scale**2, spread, out=np.ones_like(mean), where=spread > 0)
    return Estimate(mean, scale / total, np.maximum(freedom, 1.0))


def by_cluster(values: ArrayLike, clusters: ArrayLike | None) -> Floats:
    """Put items together by cluster, so that the plain mean over clusters is the mean over items.

    A cluster with n_i of N items counts a_i = C·n_i/N times. Its value is ȳ + a_i (ȳ_si − ȳ), where ȳ is the
    mean over all items and seeds: what a weighted mean varies by, to first order.

    Args:
        values: `(…, num_seeds, num_items)`.
        clusters: name or number of the cluster of each item `(num_items,)`; None if each item is its own.

    Returns:
        `(…, num_seeds, num_clusters)`.
    """
    values = np.asarray(values, dtype=float)
    if clusters is None:
        return values
    found, member, counts = np.unique(np.asarray(clusters), return_inverse=True, return_counts=True)
    sums = np.zeros((values.shape[-1], len(found)))
    sums[np.arange(len(member)), member] = 1
    share = len(found) * counts / counts.sum()
    mean = values.mean(axis=(-2, -1), keepdims=True)
    weighted: Floats = mean + share * (values @ sums / counts - mean)
    return weighted


def wilson_interval(share: ArrayLike, num: ArrayLike) -> tuple[Floats, Floats]:
    """95 % score interval of proportions (Wilson, JASA 22, 1927).

    Args:
        share: that was observed, in [0, 1].
        num: independent trials, need not be whole, see `effective_trials`.
    """
    share, num = np.asarray(share, dtype=float), np.asarray(num, dtype=float)
    z = special.ndtri(0.5 + LEVEL / 2)
    centre = (share + z**2 / (2 * num)) / (1 + z**2 / num)
    reach = z / (1 + z**2 / num) * np.sqrt(share * (1 - share) / num + z**2 / (4 * num**2))
    return np.maximum(0.0, centre - reach), np.minimum(1.0, centre + reach)


def effective_trials(share: ArrayLike, variance: ArrayLike, num_clusters: int) -> Floats:
    """How many independent items a share is worth: min(C, p(1 − p) / V_p), at least 1.

    The same items under several seeds are not several items, so it never exceeds the number of clusters.
    """
    share, variance = np.asarray(share, dtype=float), np.asarray(variance, dtype=float)
    worth = np.divide(
        share * (1 - share), variance, out=np.full(share.shape, float(num_clusters)), where=variance > 0
    )
    trials: Floats = np.minimum(num_clusters, np.maximum(1.0, worth))
    return trials


def mean_interval(
    values: ArrayLike, clusters: ArrayLike | None, is_share: bool = False
) -> tuple[Floats, Floats]:
    """95 % interval of the mean over seeds and items; with one seed of the mean over items alone.

    Args:
        values: `(…, num_seeds, num_items)`.
        clusters: of the items, see `by_cluster`.
        is_share: whether values are 0 or 1; the interval is then at least Wilson's, and within [0, 1].

    Returns:
        lower and upper ends, each `(…)`.
    """
    table = by_cluster(values, clusters)
    num_seeds, num_clusters = table.shape[-2:]
    if num_seeds > 1:
        found = estimate(table)
        mean, variance, half = found.mean, found.variance, found.half_width()
    else:
        mean = table.mean(axis=(-2, -1))
        one = table[..., 0, :]
        variance = one.var(axis=-1, ddof=1) / num_clusters if num_clusters > 1 else np.zeros(mean.shape)
        half = special.stdtrit(max(1, num_clusters - 1), 0.5 + LEVEL / 2) * np.sqrt(variance)
    low, high = mean - half, mean + half
    if is_share:
        least, most = wilson_interval(mean, effective_trials(mean, variance, num_clusters))
        low, high = np.maximum(0.0, np.minimum(low, least)), np.minimum(1.0, np.maximum(high, most))
    return low, high


def bootstrap_interval(values: NDArray[Any]) -> tuple[float, float]:
    """95 % percentile interval of the mean over the items of one model, by resampling them; deterministic."""
    draws = np.random.default_rng(0).integers(len(values), size=(NUM_RESAMPLES, len(values)))
    low, high = np.percentile(values[draws].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)
