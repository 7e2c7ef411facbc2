"""Arrange the rows of one comparison, methods with equal L_train, as arrays: series × seeds × lengths."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lgbench.stats.scores import Floats, normalise, octave_weights

MEASURED, DIVERGED, OUT_OF_MEMORY = 1, 2, 3
_STATES = {"diverged": DIVERGED, "ok": DIVERGED, "out_of_memory": OUT_OF_MEMORY}
"""Of rows without a value; status ok with a value that is not finite is no better than diverged."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Panel:
    """Everything measured along the context, at the end of training, of series with one L_train.

    Attributes:
        train_length: L_train, in the unit of `lengths`.
        horizon: H, the last length of the long score as a multiple of L_train.
        learned: score at L_train from which on something counts as learned.
        series: names, in the order of the rows.
        backbones: of the series.
        seeds: all seeds, increasing.
        lengths: all evaluated lengths, increasing.
        scores: unclipped scores `(series, seeds, lengths)`; NaN where there is none.
        values: the metric itself, of the same shape.
        state: 0, `MEASURED`, `DIVERGED` or `OUT_OF_MEMORY`, of the same shape.
        ran: whether a seed has any row, measured or not, `(series, seeds)`.
        paired: whether all rows of a series are of the items that most series have, `(series,)`.
        doubled: for each series, the cells that claim a measurement twice, in words, or "".
        clusters: of the items `(num_items,)`, or None where each is its own.
        rows: the rows with `at_series`, `at_seed` and `at_length`, indices into the arrays.
    """

    train_length: int
    horizon: float
    learned: float
    series: list[str]
    backbones: list[str]
    seeds: NDArray[np.int64]
    lengths: Floats
    scores: Floats
    values: Floats
    state: NDArray[np.int8]
    ran: NDArray[np.bool_]
    paired: NDArray[np.bool_]
    doubled: list[str]
    clusters: NDArray | None
    rows: pd.DataFrame

    @cached_property
    def clipped(self) -> Floats:
        """z in [0, 1], 0 where the seed diverged; NaN where there is no score."""
        return np.where(self.state == DIVERGED, 0.0, np.clip(self.scores, 0, 1))

    @cached_property
    def grids(self) -> NDArray[np.bool_]:
        """Lengths at which every seed that measured anything has a score, `(series, lengths)`."""
        present = (self.state == MEASURED) | (self.state == DIVERGED)
        some = present.any(axis=2)
        return (present | ~some[:, :, None]).all(axis=1) & some.any(axis=1)[:, None]

    def scored(self, index: int) -> NDArray[np.int64]:
        """Indices of the seeds of a series that have a score at any length."""
        state = self.state[index]
        return np.flatnonzero(((state == MEASURED) | (state == DIVERGED)).any(axis=1))

    def weights(self, index: int, low: float, high: float) -> Floats | None:
        """Weights over all lengths of a mean of one series, see `octave_weights`."""
        grid = self.grids[index]
        found = octave_weights(self.lengths[grid], low, high)
        if found is None:
            return None
        weights = np.zeros(len(self.lengths))
        weights[grid] = found
        return weights

    def item_means(self, weights: Floats) -> Floats:
        """Σ_L w_L z of every item, so that its mean over items is that of the series and seed.

        Where the score of a seed is clipped, that of its items is the clipped number: to first order it does
        not vary there.

        Args:
            weights: `(series, lengths)`.

        Returns:
            `(series, seeds, items)`.
        """
        num_items = 1 if self.rows.empty else len(self.rows["item_values"].iloc[0])
        total = np.zeros((*self.ran.shape, num_items))
        used = weights[self.rows["at_series"], self.rows["at_length"]] > 0
        for at, rows in self.rows[used].groupby("at_length"):
            raw = item_scores(rows)
            means = np.clip(raw.mean(axis=1, keepdims=True), 0, 1)
            inside = (raw.mean(axis=1, keepdims=True) > 0) & (means < 1)
            where = rows["at_series"].to_numpy(), rows["at_seed"].to_numpy()
            total[where] += weights[where[0], at][:, None] * np.where(inside, raw, means)
        return total


def item_scores(rows: pd.DataFrame) -> Floats:
    """Unclipped scores of the items of rows that have equally many, `(rows, items)`."""
    values = np.stack(rows["item_values"].to_list()).astype(float)
    chance, best = (rows[name].to_numpy(float)[:, None] for name in ("chance", "best"))
    if rows["combine"].iloc[0] == "exp_mean":
        chance, best = np.log(chance), np.log(best)
    return (values - chance) / (best - chance)


def panels(rows: pd.DataFrame, missing: pd.DataFrame) -> Iterator[Panel]:
    """One panel an L_train, from short to long.

    Args:
        rows: measured rows of one board, checked, one a series, seed and point, with `series`, `doubled`, and
            the columns of `lgbench.stats.rows`.
        missing: rows of these series that have no value.
    """
    final = rows[rows["axis"] == "context"]
    final = final[final["step"] == final.groupby("series")["step"].transform("max")]
    about = missing[missing["axis"].fillna("context") == "context"]
    for train_length, mine in final.groupby("train_length"):
        names = list(dict.fromkeys(mine["series"]))
        yield _panel(int(train_length), names, mine, about[about["series"].isin(names)])


def _panel(train_length: int, names: list[str], rows: pd.DataFrame, missing: pd.DataFrame) -> Panel:
    known = missing.dropna(subset="seed")
    seeds = np.unique(np.concatenate([rows["seed"], known["seed"]]).astype(np.int64))
    lengths = np.unique(np.concatenate([rows["eval_length"], known["eval_length"].dropna()]).astype(float))
    rows = _with_places(rows, names, seeds, lengths)
    shape = len(names), len(seeds), len(lengths)
    place = rows["at_series"], rows["at_seed"], rows["at_length"]
    scores, values = np.full(shape, np.nan), np.full(shape, np.nan)
    state, ran = np.zeros(shape, np.int8), np.zeros(shape[:2], bool)
    value, chance, best = (rows[name].to_numpy(float) for name in ("value", "chance", "best"))
    scores[place] = normalise(value, chance, best, rows["combine"].iloc[0])
    values[place], state[place], ran[place[:2]] = value, MEASURED, True
    grid, order = (state == MEASURED).any(axis=1), {name: index for index, name in enumerate(names)}
    for row in known.itertuples():
        one, seed = order[row.series], int(np.searchsorted(seeds, row.seed))
        ran[one, seed] = True
        where = grid[one] if pd.isna(row.eval_length) else lengths == row.eval_length
        empty = where & (state[one, seed] != MEASURED)
        state[one, seed, empty] = _STATES.get(row.status, 0)
    sizes = rows["item_values"].map(len)
    usual, hashes = sizes.mode().iloc[0], rows.groupby("at_length")["items_hash"].agg(_commonest)
    alike = (sizes == usual) & (rows["items_hash"] == rows["at_length"].map(hashes))
    return Panel(
        train_length=train_length,
        horizon=float(rows["horizon"].max()),
        learned=float(rows["learned"].max()),
        series=names,
        backbones=rows.drop_duplicates("at_series").sort_values("at_series")["backbone"].tolist(),
        seeds=seeds,
        lengths=lengths,
        scores=scores,
        values=values,
        state=state,
        ran=ran,
        paired=alike.groupby(rows["at_series"]).all().to_numpy(),
        doubled=rows.groupby("at_series")["doubled"].max().tolist(),
        clusters=_clusters(rows[sizes == usual], usual),
        rows=rows[alike],
    )


def _with_places(rows: pd.DataFrame, names: list[str], seeds: NDArray, lengths: Floats) -> pd.DataFrame:
    """`rows` with indices into the arrays, and with its value as the only item where it keeps none."""
    order = {name: index for index, name in enumerate(names)}
    mean = rows["value"].to_numpy(float)
    if rows["combine"].iloc[0] == "exp_mean":
        mean = np.log(mean)
    return rows.assign(
        at_series=rows["series"].map(order).to_numpy(),
        at_seed=np.searchsorted(seeds, rows["seed"].to_numpy()),
        at_length=np.searchsorted(lengths, rows["eval_length"].to_numpy(float)),
        item_values=[
            items if items is not None and len(items) else np.array([one])
            for items, one in zip(rows["item_values"], mean, strict=True)
        ],
    )


def _commonest(names: pd.Series) -> str:
    """The commonest; of equally common ones that of the row that comes first."""
    return str(names.value_counts(sort=False).idxmax())


def _clusters(rows: pd.DataFrame, num_items: int) -> NDArray | None:
    """Clusters of the items, from the first row that has them."""
    for found in rows["item_clusters"]:
        if found is not None and np.ndim(found) and len(found) == num_items:
            return np.asarray(found)
    return None
