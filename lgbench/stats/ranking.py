"""Rank the series of a panel by their long score, and say why some are not ranked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from lgbench.recipe import columns
from lgbench.stats import intervals, scores
from lgbench.stats.beside import beside, effective, numbers
from lgbench.stats.intervals import by_cluster, estimate
from lgbench.stats.letters import letters
from lgbench.stats.pairs import ALPHA, all_adjusted, all_pairs, holm
from lgbench.stats.panel import OUT_OF_MEMORY, Panel
from lgbench.stats.scores import Floats

ROLES = {"baseline": "vanilla", "control": "last_window"}
"""Methods with a part to play: what is left without a remedy, and what a remedy must beat."""
MIN_SEEDS = 3
MIN_SEEDS_LETTERS = 5
MAX_LETTERED = 60
"""Series of one ranking at most, for letters that somebody can read."""
_LIKENESS = ["backbone", "train_low", "train_high", "d_state"]
_LIKENESS += [name for name, said in columns().items() if said.words and name != "train_length"]


def rank(panel: Panel, show: Callable[[float], str] = "{:g}".format) -> pd.DataFrame:
    """One row a series: ranked ones by rank, then by long score, then the others with the reason.

    Rank = 1 + number of methods that are significantly better (paired t over seeds and clusters, all pairs of
    the panel being one family after Holm), but never before a method with a higher long score: seeds that
    disagree make a method hard to tell from the best, and that must not pay. For the same reason a method is
    better, too, if its long score is higher and fewer of its seeds diverged: their zeros were seen, and are
    no noise. Differences to the baseline and to the control are a family of their own. Letters need
    `MIN_SEEDS_LETTERS` seeds of every ranked series.

    Args:
        panel: series with one L_train.
        show: how a length reads in a reason.

    Returns:
        `series`; `rank`, NaN if unranked; `reason`, why; `letters`; the columns of `numbers`, `effective` and
        `beside` in `lgbench.stats.beside`; and for each role of `ROLES` its series as `baseline`, `control`,
        and `…_delta`, `…_half`, `…_p` of the difference in long score. What cannot be computed is NaN.
    """
    low, high = panel.train_length, panel.horizon * panel.train_length
    weights = [panel.weights(k, low, high) for k in range(len(panel.series))]
    tables = _tables(panel, weights)
    partners = {role: most_alike(panel, method) for role, method in ROLES.items()}
    table = pd.DataFrame(
        {"series": name, "rank": np.nan, "letters": "", "reason": _reason(panel, k, weights[k], show)}
        | numbers(panel, k, weights[k], tables[k])
        | effective(panel, k)
        | beside(panel, k, weights[k], partners["baseline"][k])
        | _differences(panel, k, tables, partners)
        for k, name in enumerate(panel.series)
    )
    _adjust(table)
    _rank(table, tables)
    order = table.assign(long=-table["long"], at=range(len(table)))
    best_first = order.sort_values(["rank", "long", "at"], na_position="last").index
    return table.loc[best_first].reset_index(drop=True)


def _tables(panel: Panel, weights: list[Floats | None]) -> list[Floats | None]:
    """Long scores of each series by seed and cluster, `(scored seeds, clusters)`; None without one."""
    nothing = np.zeros(len(panel.lengths))
    items = panel.item_means(np.stack([nothing if w is None else w for w in weights]))
    return [
        by_cluster(items[k][panel.scored(k)], panel.clusters)
        if w is not None and panel.paired[k] else None
        for k, w in enumerate(weights)
    ]  # fmt: skip


def _reason(panel: Panel, index: int, weights: Floats | None, show: Callable[[float], str]) -> str:
    """Why a series is not ranked; empty if it is."""
    train, end = panel.train_length, panel.horizon * panel.train_length
    ran, scored = panel.seeds[panel.ran[index]], panel.seeds[panel.scored(index)]
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
        score = float(np.nansum(panel.clipped[index][panel.scored(index)].mean(axis=0) * at_train))
        if score <= 0:
            return "not above chance at L_train"
        if score < panel.learned:
            return f"score {score:.2f} at L_train, {panel.learned:g} counts as learned"
    if grid[-1] < end * (1 - 1e-9):
        return f"evaluated to {grid[-1] / train:.3g}×, the horizon is {panel.horizon:.3g}×"
    if weights is None:
        return f"its lengths have a gap above {scores.MAX_GAP:g}× between L_train and the horizon"
    return ""


def most_alike(panel: Panel, method: str) -> list[int | None]:
    """For each series the one of a method that is most like it: same backbone first, then training."""
    firsts = panel.rows.drop_duplicates("at_series")
    found: list[int | None] = [None] * len(panel.series)
    candidates = firsts[firsts["method"] == method]
    if candidates.empty:
        return found
    codes = np.stack([pd.factorize(firsts[name])[0] for name in _LIKENESS], axis=1)
    theirs = codes[(firsts["method"] == method).to_numpy()]
    for at, mine, own in zip(firsts["at_series"], codes, firsts["method"] == method, strict=True):
        same = theirs == mine
        likeness = same.sum(axis=1) + len(_LIKENESS) * same[:, 0]
        found[at] = int(at) if own else int(candidates["at_series"].iloc[int(likeness.argmax())])
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
        mine, theirs = panel.scored(index), panel.scored(other)
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
