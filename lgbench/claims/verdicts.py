"""Judge claims: what the rows say, how sure that is, and what would have to be run to know.

A part holds if the 95 % interval of its quantity lies wholly between its limits, and is contradicted if it
lies wholly beyond one. A claim holds if all its parts do. It is contradicted if one part is, at a level
corrected for the number of parts that could have been (Bonferroni): a conjunction may fail at any of them.

Intervals are Student's t over variance components of seeds and of clusters of items, see
`lgbench.stats.intervals.estimate`. One seed has no such interval, so it decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from lgbench.claims.cells import Cells, NotRun, Sample, Unusable
from lgbench.claims.claim import Claim, Part
from lgbench.claims.model import Model
from lgbench.claims.readings import Look, Reading
from lgbench.stats.intervals import LEVEL, by_cluster, estimate
from lgbench.stats.scores import Floats

HOLDS, CONTRADICTED, UNDECIDED, NOT_RUN = "holds", "contradicted", "undecided", "not run"
VERDICTS = (HOLDS, CONTRADICTED, UNDECIDED, NOT_RUN)
MIN_SEEDS = 2
"""With fewer there is no variance of seeds, and no interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One part with its numbers.

    Attributes:
        verdict: of this part alone, at 95 %.
        is_refuted: whether it contradicts the whole claim, at the corrected level.
        mean: of the quantity; NaN without measurements.
        low: lower end of the 95 % interval; NaN where there is none. Likewise `high`.
        num_seeds: that went into it.
        num_clusters: of items; 1 for a quantity that is one number a seed.
        why: why it is not decided, empty otherwise.
    """

    part: Part
    verdict: str
    is_refuted: bool = False
    mean: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")
    num_seeds: int = 0
    num_clusters: int = 0
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A claim with its verdict.

    Attributes:
        parts: in the order of the claim.
        missing: models and seeds of its plan that have no rows, or no weights for a probe to look into.
        unread: looks of probes and seeds that have no readings.
    """

    claim: Claim
    verdict: str
    parts: tuple[Judged, ...]
    missing: tuple[tuple[Model, int], ...]
    unread: tuple[tuple[Look, int], ...]

    @property
    def probes(self) -> tuple[str, ...]:
        """Names of the probes that it waits for."""
        return tuple(dict.fromkeys(look.name for look, _ in self.unread))

    @property
    def whys(self) -> tuple[str, ...]:
        """Why it is not decided, each reason once."""
        return tuple(dict.fromkeys(part.why for part in self.parts if part.why))


def judge_all(claims: Iterable[Claim], cells: Cells) -> list[Finding]:
    """Judge claims from what is in the store."""
    return [judge(claim, cells) for claim in claims]


def judge(claim: Claim, cells: Cells) -> Finding:
    """Judge one claim from what is in the store."""
    parts = tuple(_judge_part(part, len(claim.parts), cells) for part in claim.parts)
    verdicts = {part.verdict for part in parts}
    if any(part.is_refuted for part in parts):
        verdict = CONTRADICTED
    elif NOT_RUN in verdicts:
        verdict = NOT_RUN
    else:
        verdict = HOLDS if verdicts == {HOLDS} else UNDECIDED
    return Finding(
        claim=claim, verdict=verdict, parts=parts, missing=missing_seeds(claim, cells),
        unread=unread(claim, cells),
    )  # fmt: skip


def missing_seeds(claim: Claim, cells: Cells, seeds: int | None = None) -> tuple[tuple[Model, int], ...]:
    """Models and seeds that a claim reads and the store does not have at all its points.

    So are those that a probe has not looked into and whose weights are not at hand.

    Args:
        claim: whose plan it is.
        cells: what is in the store.
        seeds: that every model should have; each model's own number if None.
    """
    needed = {model: [p for p in claim.points if p.model == model] for model in claim.models}
    closed = {
        (look.model, seed)
        for look, seed in unread(claim, cells, seeds)
        if not cells.has_weights(look.model, seed)
    }
    return tuple(
        (model, seed)
        for model, points in needed.items()
        for seed in range(seeds or model.seeds)
        if seed not in cells.seeds(model)
        or not all(cells.has(point, seed) for point in points)
        or (model, seed) in closed
    )


def unread(claim: Claim, cells: Cells, seeds: int | None = None) -> tuple[tuple[Look, int], ...]:
    """Looks of probes and seeds that a claim reads and the store does not have; arguments as above."""
    return tuple(
        (look, seed)
        for look in dict.fromkeys(reading.look for reading in claim.readings)
        for seed in range(seeds or look.model.seeds)
        if not cells.has_readings(look, seed)
    )


def lost(claim: Claim, cells: Cells) -> tuple[tuple[Model, int], ...]:
    """Models and seeds that a probe has yet to look into and that are in the store without their weights."""
    return tuple(
        (look.model, seed)
        for look, seed in unread(claim, cells)
        if seed in cells.seeds(look.model) and not cells.has_weights(look.model, seed)
    )


def _judge_part(part: Part, num_parts: int, cells: Cells) -> Judged:
    """One part; `num_parts` could have contradicted the claim."""
    quantity = part.quantity
    read = [*(point.model for point in quantity.needs), *(one.model for one in quantity.readings)]
    models = dict.fromkeys(read)
    absent = [str(model) for model in models if not cells.seeds(model)]
    if absent:
        return Judged(part=part, verdict=NOT_RUN, why=f"no rows of {'; '.join(absent)}")
    try:
        seeds = _common_seeds([cells.seeds(model) for model in models])
        samples = {point: cells.sample(point, seeds) for point in quantity.needs}
        if len({sample.values.shape[1] for sample in samples.values()}) > 1:
            raise Unusable("what it compares was measured on different numbers of items")
        looked = {one: cells.scalars(one, seeds) for one in quantity.readings}
        values = quantity.compute(lambda one: looked[one] if isinstance(one, Reading) else samples[one])
    except NotRun as error:
        return Judged(part=part, verdict=NOT_RUN, why=str(error))
    except Unusable as error:
        return Judged(part=part, verdict=UNDECIDED, why=str(error))
    return _decide(part, num_parts, values, list(samples.values()))


def _decide(part: Part, num_parts: int, values: Floats, samples: Sequence[Sample]) -> Judged:
    """From the array of a quantity `(seeds, items)`."""
    table = by_cluster(values, _clusters(values, samples))
    is_coarse = values.shape[1] == 1 or all(sample.is_share for sample in samples)
    num_seeds, num_clusters = table.shape
    mean = float(table.mean())
    numbers = {"part": part, "mean": mean, "num_seeds": num_seeds, "num_clusters": num_clusters}
    if num_seeds < MIN_SEEDS:
        return Judged(**numbers, verdict=UNDECIDED, why="one seed says nothing about other seeds")
    half = _half_width(table, 1 - LEVEL, is_coarse)
    corrected = _half_width(table, (1 - LEVEL) / num_parts, is_coarse)
    low, high = mean - half, mean + half
    if part.low < low and high < part.high:
        verdict = HOLDS
    elif high < part.low or part.high < low:
        verdict = CONTRADICTED
    else:
        verdict = UNDECIDED
    refuted = mean + corrected < part.low or part.high < mean - corrected
    why = "the interval contains the threshold" if verdict == UNDECIDED else ""
    if verdict == CONTRADICTED and not refuted:
        why = f"contradicted alone, but not at the level for {num_parts} parts"
    return Judged(**numbers, verdict=verdict, is_refuted=refuted, low=low, high=high, why=why)


def _half_width(table: Floats, alpha: float, is_coarse: bool) -> float:
    """Half of the interval at level 1 − alpha.

    Shares, or lengths on a grid, may agree exactly in all seeds and items, which would give an interval of no
    width. It gets Wilson's, in their unit, for as many trials as there are clusters: what was seen n times
    need not be so always.
    """
    found = estimate(table)
    if found.variance > 0:
        return float(special.stdtrit(found.freedom, 1 - alpha / 2) * np.sqrt(found.variance))
    square = float(special.ndtri(1 - alpha / 2)) ** 2
    return square / (table.shape[1] + square) if is_coarse else 0.0


def _common_seeds(found: Sequence[list[int]]) -> list[int]:
    """Seeds that all models have. Unusable if one of 0, 1, 2, … is left out: seeds are not to be chosen."""
    common = sorted(set.intersection(*map(set, found)))
    if common != list(range(len(common))):
        raise Unusable(
            f"seeds must be 0, 1, 2, … without a gap; there are {', '.join(map(str, common)) or 'none'}"
        )
    return common


def _clusters(values: Floats, samples: Sequence[Sample]) -> Sequence[str] | None:
    """Clusters of the items, of the first point that has them and as many items."""
    known = (s.clusters for s in samples if s.clusters is not None and len(s.clusters) == values.shape[1])
    return next(known, None) if values.shape[1] > 1 else None
