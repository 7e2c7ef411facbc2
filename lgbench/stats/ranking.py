"""Rank the series of a panel by their long score, and say why some are not ranked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from lgbench.stats import intervals, scores
from lgbench.stats.intervals import by_cluster, estimate
from lgbench.stats.letters import letters
from lgbench.stats.pairs import ALPHA, all_adjusted, all_pairs, holm
from lgbench.stats.panel import DIVERGED, MEASURED, OUT_OF_MEMORY, Panel
from lgbench.stats.scores import Floats

ROLES = {"baseline": "vanilla", "control": "last_window"}
"""Methods with a part to play: what is left without a remedy, and what a remedy must beat."""
MIN_SEEDS = 3
MIN_SEEDS_LETTERS = 5
MAX_LETTERED = 60
"""Series of one ranking at most, for letters that somebody can read."""
_LIKENESS = ["backbone", "train_low", "train_high", "train_steps", "d_model", "num_layers", "d_state"]
_LIKENESS += ["batch_size", "lm_weight", "learning_rate"]


def rank(panel: Panel, show: Callable[[float], str] = "{:g}".format) -> pd.DataFrame:
    """One row a series: ranked ones by rank, then by long score, then the others with the reason.

    Rank = 1 + number of methods that are significantly better (paired t over seeds and clusters, all pairs of
    the panel being one family after Holm), but never before a method with a higher long score: seeds that
    disagree make a method hard to tell from the best, and that must not pay. For the same reason a method is
    better, too, whose long score is higher and that lost fewer seeds to divergence: their zeros were seen, and
    are no noise. Differences to the baseline and to the control are a family of their own. Letters need `MIN_SEEDS_LETTERS` seeds of every ranked series.

    Args:
        panel: series with one L_train.
        show: how a length reads in a reason.

    Returns:
        `series`; `rank`, NaN if unranked; `reason`, why; `letters`; `long` and `long_half`, half of its 95 %
        interval; `in_range`; `effective`, `effective_low`, `effective_high` and `effective_open`; `profile`
        (median effective length by threshold); `retention`, `gain`, `harm` and `harm_at` (see `_beside`);
        `num_seeds`, `num_seeds_run` and `num_diverged` (at any length up to the horizon); and for each role of `ROLES` its series as `baseline`, `control`, and
        `…_delta`, `…_half`, `…_p` of the difference in long score. What cannot be computed is NaN.
    """
    weights = [panel.weights(k, panel.train_length, panel.horizon * panel.train_length)
               for k in range(len(panel.series))]  # fmt: skip
    tables = _tables(panel, weights)
    partners = {role: _partners(panel, method) for role, method in ROLES.items()}
    entries = []
    for k, name in enumerate(panel.series):
        entry = {"series": name, "rank": np.nan, "letters": "", "reason": _reason(panel, k, weights[k], show)}
        entries.append(entry | _numbers(panel, k, weights[k], tables[k]) | _effective(panel, k)
                       | _beside(panel, k, weights[k], partners["baseline"][k])
                       | _differences(panel, k, tables, partners))  # fmt: skip
    table = pd.DataFrame(entries)
    _adjust(table)
    _rank(table, tables)
    order = table.assign(long=-table["long"], at=range(len(table)))
    return table.loc[order.sort_values(["rank", "long", "at"], na_position="last").index].reset_index(
        drop=True
    )


def scored_seeds(panel: Panel, index: int) -> np.ndarray:
    """Indices of the seeds of a series that have a score at any length."""
    return np.flatnonzero(((panel.state[index] == MEASURED) | (panel.state[index] == DIVERGED)).any(axis=1))


def _tables(panel: Panel, weights: list[Floats | None]) -> list[Floats | None]:
    """Long scores of each series by seed and cluster, `(scored seeds, clusters)`; None without one."""
    nothing = np.zeros(len(panel.lengths))
    items = panel.item_means(np.stack([nothing if w is None else w for w in weights]))
    return [
        by_cluster(items[k][scored_seeds(panel, k)], panel.clusters)
        if w is not None and panel.paired[k] else None
        for k, w in enumerate(weights)
    ]  # fmt: skip


def _reason(panel: Panel, index: int, weights: Floats | None, show: Callable[[float], str]) -> str:
    """Why a series is not ranked; empty if it is."""
    train, end = panel.train_length, panel.horizon * panel.train_length
    ran, scored = panel.seeds[panel.ran[index]], panel.seeds[scored_seeds(panel, index)]
    if panel.doubled[index]:
        return f"two cells claim the same measurement: {panel.doubled[index]}"
    if not panel.paired[index]:
        return "it was not evaluated on the items of the others"
    full = (panel.state[index] == OUT_OF_MEMORY).any(axis=0) & (panel.lengths <= end)
    if full.any():
        return f"out of memory at {show(panel.lengths[full][0])}"
    lost = sorted({*range(int(ran.max()) + 1)} - {*scored.tolist()})
    if lost:
        return f"seed {', '.join(map(str, lost))} of 0 to {ran.max()} is missing"
    if len(scored) < MIN_SEEDS:
        return f"{len(scored)} seed{'s' * (len(scored) > 1)}, at least {MIN_SEEDS} are needed"
    grid = panel.lengths[panel.grids[index]]
    if not grid.size or grid[0] > train:
        return f"nothing was evaluated up to L_train {show(train)}"
    at_train = panel.weights(index, train, train)
    if at_train is not None:
        score = float(np.nansum(panel.clipped[index][scored_seeds(panel, index)].mean(axis=0) * at_train))
        if score <= 0:
            return "not above chance at L_train"
        if score < panel.learned:
            return f"score {score:.2f} at L_train, {panel.learned:g} counts as learned"
    if grid[-1] < end * (1 - 1e-9):
        return f"evaluated to {grid[-1] / train:.3g}×, the horizon is {panel.horizon:.3g}×"
    if weights is None:
        return f"its lengths have a gap above {scores.MAX_GAP:g}× between L_train and the horizon"
    return ""


def _numbers(panel: Panel, index: int, weights: Floats | None, table: Floats | None) -> dict[str, Any]:
    seeds, grid = scored_seeds(panel, index), panel.lengths[panel.grids[index]]
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


def _effective(panel: Panel, index: int) -> dict[str, Any]:
    """Median and range over seeds, "open" where the median seed never crossed; and the profile."""
    grid, curves = panel.grids[index], panel.clipped[index][scored_seeds(panel, index)]
    found = {
        share: [scores.effective_length(panel.lengths[grid], curve[grid], panel.train_length, share)
                for curve in curves]
        for share in {scores.HOLDS_ABOVE, *scores.THRESHOLDS} if grid.any()
    }  # fmt: skip
    multiples = {share: np.array([multiple for multiple, _ in pairs]) for share, pairs in found.items()}
    if not found or np.isnan(multiples[scores.HOLDS_ABOVE]).any():
        nothing = dict.fromkeys(("effective", "effective_low", "effective_high"), np.nan)
        return nothing | {"effective_open": False, "profile": {}}
    values = multiples[scores.HOLDS_ABOVE]
    still = [is_open for _, is_open in found[scores.HOLDS_ABOVE]]
    return {
        "effective": float(np.median(values)),
        "effective_low": float(values.min()),
        "effective_high": float(values.max()),
        "effective_open": sum(still) * 2 > len(still),
        "profile": {share: float(np.median(multiples[share])) for share in scores.THRESHOLDS},
    }


def _beside(panel: Panel, index: int, weights: Floats | None, baseline: int | None) -> dict[str, float]:
    """Unclipped: retention, gain, and harm, the largest paired loss to the baseline at any length.

    Harm is at least 0; `harm_at` is its length. Seeds that diverged count as chance.
    """
    entry = dict.fromkeys(("retention", "gain", "harm", "harm_at"), np.nan)
    raw = np.where(panel.state == DIVERGED, 0.0, panel.scores)
    seeds = scored_seeds(panel, index)
    if weights is not None:
        mean = raw[index][seeds].mean(axis=0)
        grid = panel.grids[index]
        kept = scores.retention_and_gain(panel.lengths[grid], mean[grid], panel.train_length, weights[grid])
        entry["retention"], entry["gain"] = map(float, kept)
    if baseline is None or not panel.paired[[index, baseline]].all():
        return entry
    common = np.intersect1d(seeds, scored_seeds(panel, baseline))
    both = panel.grids[index] & panel.grids[baseline]
    if common.size and both.any():
        loss = (raw[baseline][common] - raw[index][common]).mean(axis=0)[both]
        worst = int(np.argmax(loss))
        entry["harm"], entry["harm_at"] = max(0.0, float(loss[worst])), float(panel.lengths[both][worst])
    return entry


def _partners(panel: Panel, method: str) -> list[int | None]:
    """For each series the one of a method that is most like it: same backbone first, then training."""
    firsts = panel.rows.drop_duplicates("at_series").set_index("at_series")
    candidates = firsts[firsts["method"] == method]
    found: list[int | None] = []
    for k in range(len(panel.series)):
        if candidates.empty or k not in firsts.index:
            found.append(None)
            continue
        same = candidates[_LIKENESS] == firsts.loc[k, _LIKENESS]
        likeness = same["backbone"] * 100 + same.sum(axis=1)
        found.append(k if k in candidates.index else int(likeness.idxmax()))
    return found


def _differences(
    panel: Panel, index: int, tables: list[Floats | None], partners: dict[str, list[int | None]]
) -> dict[str, Any]:
    """Paired differences in long score to the baseline and to the control, on common seeds."""
    entry: dict[str, Any] = {}
    for role, chosen in partners.items():
        other = chosen[index]
        entry |= {role: "" if other is None else panel.series[other]}
        entry |= dict.fromkeys((f"{role}_delta", f"{role}_half", f"{role}_p"), np.nan)
        if other is None or other == index or tables[index] is None or tables[other] is None:
            continue
        mine, theirs = scored_seeds(panel, index), scored_seeds(panel, other)
        _, here, there = np.intersect1d(mine, theirs, return_indices=True)
        if not here.size:
            continue
        found = estimate(tables[index][here] - tables[other][there])
        entry |= {f"{role}_delta": float(found.mean), f"{role}_half": float(found.half_width())}
        entry[f"{role}_p"] = float(found.p_value()) if len(here) > 1 else np.nan
    return entry


def _adjust(table: pd.DataFrame) -> None:
    """Correct the p-values of differences to both roles as one family, those of ranked series alone."""
    columns = [f"{role}_p" for role in ROLES]
    values = table[columns].to_numpy(copy=True)
    known = np.isfinite(values) & (table["reason"] == "").to_numpy()[:, None]
    values[known] = holm(values[known])
    values[~known] = np.nan
    table[columns] = values


def _rank(table: pd.DataFrame, tables: list[Floats | None]) -> None:
    """Set `rank` and `letters` of the series that have no reason against it."""
    ranked = table.index[table["reason"] == ""]
    if ranked.empty:
        return
    ranked = table.loc[ranked].sort_values("long", ascending=False, kind="stable").index
    pairs = all_pairs([tables[k] for k in ranked])
    differ = all_adjusted(pairs) < ALPHA
    lost = table.loc[ranked, "num_diverged"].to_numpy()
    higher = np.less.outer(table.loc[ranked, "long"].to_numpy(), table.loc[ranked, "long"].to_numpy())
    better = (differ & (pairs.mean < 0)) | (higher & np.greater.outer(lost, lost))
    table.loc[ranked, "rank"] = 1.0 + np.maximum.accumulate(better.sum(axis=1))
    enough = table.loc[ranked, "num_seeds"].min() >= MIN_SEEDS_LETTERS
    if enough and len(ranked) <= MAX_LETTERED:
        table.loc[ranked, "letters"] = letters(differ)


def fixed_clusters(panel: Panel) -> int | None:
    """How many clusters conclusions are limited to; None where there are enough to speak of all."""
    if panel.rows.empty:
        return None
    own = len(panel.rows["item_values"].iloc[0])
    num = own if panel.clusters is None else len(np.unique(panel.clusters))
    return num if num < intervals.MIN_CLUSTERS else None
