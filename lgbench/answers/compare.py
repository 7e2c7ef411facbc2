"""Say what changed from one set of results to another beyond the noise of seeds and items.

Series are paired: equal task, data, method and settings, apart from the columns that the two sides select by.
A difference is taken seed by seed and item by item, so what both sides share (hard items, a lucky seed)
cancels. Sources: the formulas of `lgbench.stats.intervals` and `lgbench.stats.pairs`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from lgbench.answers.selection import Selection
from lgbench.errors import UserError
from lgbench.report.curves import BOARD, Results, load
from lgbench.report.series import SERIES
from lgbench.report.wording import NOTHING, format_length
from lgbench.stats.intervals import by_cluster, estimate
from lgbench.stats.pairs import ALPHA, holm
from lgbench.stats.panel import DIVERGED, Panel, panels
from lgbench.stats.scores import Floats, octave_weights
from lgbench.terminal import Listing

WHOLE = "mean score"
"""The mean score over the octaves from the shortest to the longest length that both sides have."""
_FOLLOWS = {
    "method": ("method", "label", "method_params"),
    "label": ("method", "label", "method_params"),
    "backbone": ("backbone", "d_state"),
    "train_length": ("train_length", "train_low", "train_high"),
    "data_source": ("data_source", "data_fingerprint"),
    "task": ("task", "task_params", "data_source", "data_fingerprint"),
}
"""Columns that may differ, too, where the sides select by one."""
_SIDES = ("A", "B")


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One paired difference B − A, in normalised score: 0 is chance, 1 the best possible value.

    Attributes:
        board: task, data, preset and metric, in words.
        series: name of the paired series, or both names.
        at: `WHOLE`, or a length in words.
        a, b: the mean score of both sides, on the common seeds.
        half: half of the 95 % interval of b − a; NaN with one common seed.
        p: after Holm's correction over the tests of its kind; NaN where there is no test.
        num_seeds: common seeds.
        is_equal: whether every value of both sides is the same number.
    """

    board: str
    series: str
    at: str
    a: float
    b: float
    half: float
    p: float
    num_seeds: int
    is_equal: bool

    @property
    def delta(self) -> float:
        """B − A; above 0 if B is better."""
        return self.b - self.a

    @property
    def is_beyond_noise(self) -> bool:
        """Whether the difference is significant after Holm's correction."""
        return bool(self.p < ALPHA)


@dataclass(slots=True)
class Comparison:
    """Everything that two selections say about each other."""

    changes: list[Change] = field(default_factory=list)
    """First the mean scores of all paired series, then lengths; the largest differences first."""
    unpaired: list[str] = field(default_factory=list)
    """What could not be compared, and why, a sentence each."""


def compare(first: Selection, second: Selection) -> Comparison:
    """Pair the series of two selections and test every difference.

    Raises:
        UserError: a folder or a commit that is not there, a selection without rows, or nothing in common.
    """
    found, sides = Comparison(), []
    for name, selection in zip(_SIDES, (first, second), strict=True):
        with selection.checked_out() as folder:
            results = load([folder])
        found.unpaired += [f"{name}: {sentence}" for sentence in results.left_out]
        sides.append(_series(results, selection))
    free = {free for s in (first, second) for column in s.where for free in _FOLLOWS.get(column, (column,))}
    pairs = _pairs(sides, [name for name in (*BOARD, *SERIES) if name not in free], found.unpaired)
    changes = [change for pair in pairs for change in _changes(*pair, found.unpaired)]
    if not changes:
        reasons = f" {found.unpaired[0]}" if found.unpaired else ""
        raise UserError(f"'{first.text}' and '{second.text}' have no series to compare.{reasons}")
    found.changes = _tested(changes)
    return found


@dataclass(frozen=True, slots=True)
class _Series:
    """The rows of one line of one side, measured ones and others."""

    board: str
    name: str
    rows: pd.DataFrame
    missing: pd.DataFrame


def _series(results: Results, selection: Selection) -> list[_Series]:
    """Lines along the context of the selected rows."""
    found = []
    for board in results.boards:
        rows = selection.of(board.rows[board.rows["axis"] == "context"])
        for name, mine in rows.groupby("series", sort=False):
            missing = board.missing[board.missing["series"] == name]
            if "seed" in selection.where:
                missing = missing[missing["seed"].isin(mine["seed"])]
            found.append(_Series(f"{board.title}: {board.metric}", str(name), mine, missing))
    if not found:
        raise UserError(f"'{selection.text}' selects no measured rows; see: lgbench report --results FOLDER")
    return found


def _pairs(
    sides: Sequence[Sequence[_Series]], key: Sequence[str], unpaired: list[str]
) -> Iterable[tuple[_Series, _Series]]:
    """Series of equal key; those without a partner, or with several, are named."""
    groups: dict[tuple, tuple[list[_Series], list[_Series]]] = {}
    for side, several in enumerate(sides):
        for one in several:
            values = tuple(one.rows[list(key)].iloc[0])
            groups.setdefault(values, ([], []))[side].append(one)
    for mine, theirs in groups.values():
        if len(mine) == len(theirs) == 1:
            yield mine[0], theirs[0]
        elif not mine or not theirs:
            for one in mine or theirs:
                where, other = _SIDES if mine else reversed(_SIDES)
                unpaired.append(f"{one.board}, {one.name}: in {where} alone, no such series in {other}")
        else:
            names = "; ".join(
                f"{side} has {', '.join(sorted(one.name for one in some))}"
                for side, some in zip(_SIDES, (mine, theirs), strict=True)
            )
            unpaired.append(f"{mine[0].board}: no single pair ({names}); select more narrowly")


def _changes(a: _Series, b: _Series, unpaired: list[str]) -> list[Change]:
    """The mean score and every common length of one pair; what cannot be paired is named."""
    name = a.name if a.name == b.name else f"{a.name} → {b.name}"
    panel, where = _panel(a, b), f"{a.board}, {name}"
    if isinstance(panel, str):
        unpaired.append(f"{where}: {panel}")
        return []
    unit = a.rows["length_unit"].iloc[0]
    unpaired += [f"{where}: {sentence}" for sentence in _one_sided(panel, unit)]
    seeds, both = np.intersect1d(panel.scored(0), panel.scored(1)), panel.grids.all(axis=0)
    if not seeds.size or not both.any():
        unpaired.append(f"{where}: no common {'seed' if both.any() else 'length'}")
        return []
    points = [(format_length(panel.lengths[at], unit), np.eye(len(both))[at]) for at in np.flatnonzero(both)]
    lengths, whole = panel.lengths[both], np.zeros(len(both))
    weights = octave_weights(lengths, lengths[0], lengths[-1])
    if weights is not None and len(lengths) > 1:
        whole[both] = weights
        points.insert(0, (WHOLE, whole))
    return [_change(panel, seeds, a.board, name, at, weighted) for at, weighted in points]


def _one_sided(panel: Panel, unit: str) -> Iterable[str]:
    """What only one of the two series of a panel has, a sentence each."""
    lost = [int((panel.state[side] == DIVERGED).any(axis=1).sum()) for side in (0, 1)]
    if lost[0] != lost[1]:
        yield f"diverged seeds, whose score is 0: {lost[0]} in A, {lost[1]} in B"
    lengths = panel.lengths[panel.grids[0] ^ panel.grids[1]]
    if lengths.size:
        yield f"on one side alone: lengths {', '.join(format_length(length, unit) for length in lengths)}"
    seeds = panel.seeds[np.setxor1d(panel.scored(0), panel.scored(1))]
    if seeds.size:
        yield f"on one side alone: seeds {', '.join(map(str, seeds))}"


def _panel(a: _Series, b: _Series) -> Panel | str:
    """Both series in one panel, or why they cannot be paired."""
    train_length = max(side.rows["train_length"].iloc[0] for side in (a, b))
    rows, missing = (
        pd.concat(
            [getattr(side, kind).assign(series=name) for name, side in zip(_SIDES, (a, b), strict=True)],
            ignore_index=True,
        )
        for kind in ("rows", "missing")
    )
    for name in _SIDES:
        doubled = rows.loc[rows["series"] == name, "doubled"].max()
        if doubled:
            return f"in {name} two cells claim the same measurement: {doubled}"
    (panel,) = panels(rows.assign(train_length=train_length), missing)
    if not panel.paired.all():
        return "A and B were not evaluated on the same items"
    return panel


def _change(panel: Panel, seeds: np.ndarray, board: str, name: str, at: str, weights: Floats) -> Change:
    means = panel.item_means(np.stack([weights, weights]))[:, seeds]
    tables = [by_cluster(side, panel.clusters) for side in means]
    found = estimate(tables[1] - tables[0])
    return Change(
        board=board,
        series=name,
        at=at,
        a=float(tables[0].mean()),
        b=float(tables[1].mean()),
        half=float(found.half_width()),
        p=float(found.p_value()) if len(seeds) > 1 else np.nan,
        num_seeds=len(seeds),
        is_equal=bool((means[0] == means[1]).all()),
    )


def _tested(changes: Sequence[Change]) -> list[Change]:
    """With Holm's correction, mean scores being one family and lengths another; largest differences first."""
    found = []
    for family in (
        [change for change in changes if change.at == WHOLE],
        [change for change in changes if change.at != WHOLE],
    ):
        p_values = np.array([change.p for change in family])
        known = np.isfinite(p_values)
        p_values[known] = holm(p_values[known])
        tested = [replace(change, p=float(p)) for change, p in zip(family, p_values, strict=True)]
        found += sorted(tested, key=lambda change: -abs(change.delta))
    return found


def render(comparison: Comparison, *, everything: bool = False) -> Iterable[Listing | str]:
    """Tables and sentences for a terminal.

    Args:
        comparison: what `compare` gave.
        everything: also differences within noise, and series of which nothing changed.
    """
    changes = comparison.changes
    shown = [change for change in changes if everything or change.is_beyond_noise]
    for board in dict.fromkeys(change.board for change in shown):
        yield _table(board, [change for change in shown if change.board == board])
    yield _summary(changes)
    if comparison.unpaired:
        yield f"Not compared ({len(comparison.unpaired)}):"
        yield from (f"  {sentence}" for sentence in comparison.unpaired)


def _summary(changes: Sequence[Change]) -> str:
    """How much was tested, and how it came out."""
    beyond = [change for change in changes if change.is_beyond_noise]
    better, single = (
        sum(change.delta > 0 for change in beyond),
        sum(change.num_seeds < 2 for change in changes),
    )
    series = len({(change.board, change.series) for change in changes})
    text = (
        f"{series} pairs of series, {len(changes)} differences (B − A): {better} better and "
        f"{len(beyond) - better} worse beyond noise, {sum(change.is_equal for change in changes)} equal in "
        f"every item. 95 % intervals over common seeds and items; p after Holm, beyond noise under {ALPHA:g}."
    )
    if single:
        text += f" {single} with one common seed cannot be judged: how another training would end is unknown."
    return text


def _table(board: str, changes: Sequence[Change]) -> Listing:
    rows = []
    for change in changes:
        half = f" ± {change.half:.3f}" if np.isfinite(change.half) else ""
        p = NOTHING if not np.isfinite(change.p) else f"{change.p:.3f}" if change.p >= 0.0005 else "< 0.001"
        delta = f"{change.delta:+.3f}".replace("-", "−") + half
        row = (change.series, change.at, f"{change.a:.3f}", f"{change.b:.3f}", delta, p)
        rows.append((*row, str(change.num_seeds), _verdict(change)))
    headings = ("series", "at", "A", "B", "B − A", "p", "seeds", "verdict")
    return Listing(headings=headings, rows=rows, words=("series", "verdict"), title=board)


def _verdict(change: Change) -> str:
    if change.is_equal:
        return "equal"
    if change.is_beyond_noise:
        return "B is better" if change.delta > 0 else "B is worse"
    return "within noise" if change.num_seeds > 1 else "one seed"
