"""A number of a text: mean over seeds, 95 % interval over seeds and items, and the value of each seed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lgbench.errors import UserError
from lgbench.report.series import are_binary, items_of, summarise
from lgbench.stats.intervals import mean_interval


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """Print as "0.285 ± 0.012 (3 seeds)", or as "0.28 [0.21, 0.40] (3 seeds)" where the ends differ.

    Attributes:
        value: mean over seeds.
        low: lower end of the 95 % interval over seeds and items; of one seed, over items alone.
        high: upper end.
        by_seed: value of each seed.
        digits: after the point.
    """

    value: float
    low: float
    high: float
    by_seed: dict[int, float]
    digits: int

    @property
    def num_seeds(self) -> int:
        """Number of seeds."""
        return len(self.by_seed)

    @property
    def short(self) -> str:
        """The value alone."""
        return self._text(self.value)

    @property
    def interval(self) -> str:
        """The 95 % interval alone: "[0.21, 0.40]"."""
        return f"[{self._text(self.low)}, {self._text(self.high)}]"

    @property
    def decided(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0

    @property
    def seeds(self) -> str:
        """The value of each seed: "0.29, 0.20, 0.23"."""
        return ", ".join(self._text(value) for value in self.by_seed.values())

    def above(self, limit: float) -> int:
        """Number of seeds with a value above a limit."""
        return sum(value > limit for value in self.by_seed.values())

    def below(self, limit: float) -> int:
        """Number of seeds with a value below a limit."""
        return sum(value < limit for value in self.by_seed.values())

    def shifted(self, by: float) -> Quantity:
        """The same with a constant added."""
        return replace(
            self,
            value=self.value + by,
            low=self.low + by,
            high=self.high + by,
            by_seed={seed: value + by for seed, value in self.by_seed.items()},
        )

    def __str__(self) -> str:
        up, down = self._text(self.high - self.value), self._text(self.value - self.low)
        spread = f" ± {up}" if up == down else f" {self.interval}"
        return f"{self.short}{spread} ({self.num_seeds} seed{'s' * (self.num_seeds > 1)})"

    def _text(self, number: float) -> str:
        text = f"{number:.{self.digits}f}"
        return text.replace("-", "−") if float(text) else text.removeprefix("-")


def measured(rows: pd.DataFrame, digits: int | None = None) -> Quantity:
    """Return the metric of the rows of one measurement, one a seed; digits: 2 of shares, else 3."""
    binary = are_binary(rows)
    summary = summarise([items_of(rows)], _clusters(rows), rows["combine"].iloc[0], binary)
    found = {name: float(values[0]) for name, values in summary.items()}
    seeds = dict(zip(rows["seed"].astype(int), rows["value"].astype(float), strict=True))
    return Quantity(**found, by_seed=seeds, digits=_digits(binary, digits))


def subtract(first: pd.DataFrame, second: pd.DataFrame, digits: int | None = None) -> Quantity:
    """Return the mean difference of two measurements on the seeds that both have.

    Items are paired where both have the same ones; else only the seeds are, and there must be two.
    Perplexities are compared as their logarithms, nats.

    Raises:
        UserError: there is no common seed, or a single one without common items.
    """
    seeds = sorted(set(first["seed"]) & set(second["seed"]))
    if not seeds:
        raise UserError("difference: the two selections have no seed in common")
    one, two = (rows[rows["seed"].isin(seeds)].sort_values("seed") for rows in (first, second))
    same = set(one["items_hash"]) == set(two["items_hash"]) and one["items_hash"].nunique() == 1
    if same:
        table = np.stack(items_of(one)).astype(float) - np.stack(items_of(two))
    elif len(seeds) > 1:
        table = np.array([[a.mean() - b.mean()] for a, b in zip(items_of(one), items_of(two), strict=True)])
    else:
        raise UserError("difference: a single common seed, and the items differ; nothing says how sure it is")
    low, high = map(float, mean_interval(table, _clusters(one) if same else None))
    by_seed = {int(seed): float(value) for seed, value in zip(seeds, table.mean(axis=1), strict=True)}
    shown = _digits(are_binary(one), digits)
    return Quantity(value=float(table.mean()), low=low, high=high, by_seed=by_seed, digits=shown)


def _digits(binary: bool, asked: int | None) -> int:
    return asked if asked is not None else 2 if binary else 3


def _clusters(rows: pd.DataFrame) -> NDArray | None:
    found = rows["item_clusters"].iloc[0]
    return found if np.ndim(found) and len(found) else None
