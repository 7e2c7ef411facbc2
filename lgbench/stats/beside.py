"""Describe one series of a panel beside its rank: scores, effective length, retention, gain and harm."""

from __future__ import annotations

from typing import Any

import numpy as np

from lgbench.stats import scores
from lgbench.stats.intervals import estimate
from lgbench.stats.panel import DIVERGED, Panel
from lgbench.stats.scores import Floats


def numbers(panel: Panel, index: int, weights: Floats | None, table: Floats | None) -> dict[str, Any]:
    """Long and in-range score of one series.

    Args:
        panel: holds the series.
        index: of the series.
        weights: of the octaves up to the horizon, over all lengths; None if it does not reach that far.
        table: its long scores by seed and cluster; None without one.

    Returns:
        `long` and `long_half`, half of its 95 % interval; `in_range`; `num_seeds` with a score,
        `num_seeds_run`, and `num_diverged` at any length up to the horizon.
    """
    seeds, grid = panel.scored(index), panel.lengths[panel.grids[index]]
    entry = {"long": np.nan, "long_half": np.nan, "in_range": np.nan, "num_seeds": len(seeds),
             "num_seeds_run": int(panel.ran[index].sum())}  # fmt: skip
    judged = panel.lengths <= panel.horizon * panel.train_length * (1 + 1e-9)
    entry["num_diverged"] = int((panel.state[index][:, judged] == DIVERGED).any(axis=1).sum())
    means = panel.clipped[index][seeds].mean(axis=0)
    if grid.size and grid[0] <= panel.train_length:
        within = panel.weights(index, grid[0], panel.train_length)
        if within is not None:
            entry["in_range"] = float(np.nansum(np.where(within > 0, means * within, 0)))
    if weights is not None:
        entry["long"] = float(np.where(weights > 0, means * weights, 0).sum())
    if table is not None:
        entry["long_half"] = float(estimate(table).half_width())
    return entry


def effective(panel: Panel, index: int) -> dict[str, Any]:
    """Effective length of one series.

    Returns:
        `effective`, `effective_low`, `effective_high`, median and range over seeds as multiples of L_train;
        `effective_open`, whether the median seed never crossed; `profile`, threshold → median.
    """
    grid, curves = panel.grids[index], panel.clipped[index][panel.scored(index)]
    shares = np.array([scores.HOLDS_ABOVE, *scores.THRESHOLDS])
    nothing: dict[str, Any] = dict.fromkeys(("effective", "effective_low", "effective_high"), np.nan)
    nothing |= {"effective_open": False, "profile": {}}
    if not grid.any():
        return nothing
    found = [scores.effective_length(panel.lengths[grid], curve[grid], panel.train_length, shares)
             for curve in curves]  # fmt: skip
    multiples = np.stack([multiple for multiple, _ in found])
    if np.isnan(multiples).any():
        return nothing
    return {
        "effective": float(np.median(multiples[:, 0])),
        "effective_low": float(multiples[:, 0].min()),
        "effective_high": float(multiples[:, 0].max()),
        "effective_open": sum(bool(is_open[0]) for _, is_open in found) * 2 > len(found),
        "profile": dict(zip(scores.THRESHOLDS, np.median(multiples[:, 1:], axis=0).tolist(), strict=True)),
    }


def beside(panel: Panel, index: int, weights: Floats | None, baseline: int | None) -> dict[str, float]:
    """Unclipped: retention, gain, and harm, the largest paired loss to the baseline at any length.

    Harm is at least 0; `harm_at` is its length. Seeds that diverged count as chance.
    """
    entry = dict.fromkeys(("retention", "gain", "harm", "harm_at"), np.nan)
    raw = np.where(panel.state == DIVERGED, 0.0, panel.scores)
    seeds = panel.scored(index)
    if weights is not None:
        mean = raw[index][seeds].mean(axis=0)
        grid = panel.grids[index]
        kept = scores.retention_and_gain(panel.lengths[grid], mean[grid], panel.train_length, weights[grid])
        entry["retention"], entry["gain"] = map(float, kept)
    if baseline is None or not panel.paired[[index, baseline]].all():
        return entry
    common = np.intersect1d(seeds, panel.scored(baseline))
    both = panel.grids[index] & panel.grids[baseline]
    if common.size and both.any():
        loss = (raw[baseline][common] - raw[index][common]).mean(axis=0)[both]
        worst = int(np.argmax(loss))
        entry["harm"], entry["harm_at"] = max(0.0, float(loss[worst])), float(panel.lengths[both][worst])
    return entry
