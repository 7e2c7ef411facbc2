"""Compose what a claim measures: errors at points, their differences, ratios, and where curves turn.

A quantity is an expression over points (a model at a length). It has a text and, once there are rows, an
array `(seeds, items)`, or `(seeds, 1)` where it is one number a seed. Sums and multiples are exact; of a
logarithm the items keep their share to first order, so that the variance over items survives:

    E(vanilla, 128; 2,048) − 1.1 · E(vanilla, 128; 128)        above 0: the error rose by more than 10 %
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lgbench.claims.cells import Point, Sample, Unusable
from lgbench.claims.model import Model
from lgbench.claims.readings import Look, Reading
from lgbench.stats.scores import Floats

Read = Callable[[Point | Reading], Sample]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """One number a seed, with its items where it has any.

    Attributes:
        text: the expression, for people.
        needs: the points that it reads.
        readings: what it reads of probes.
        compute: from a function that reads a point or a probe.
        is_sum: whether its text needs brackets beside a minus or a factor.
    """

    text: str
    needs: tuple[Point, ...]
    readings: tuple[Reading, ...] = ()
    compute: Callable[[Read], Floats]
    is_sum: bool = False

    def __sub__(self, other: Quantity) -> Quantity:
        return self._with(f"{self.text} − {other._inner()}", other, lambda a, b: a - b)

    def __rmul__(self, factor: float) -> Quantity:
        return self._of(f"{factor:g} · {self._inner()}", lambda a: factor * a)

    def log(self) -> Quantity:
        """The natural logarithm of the mean of each seed."""
        return self._of(f"ln {self._inner()}", _log)

    def _inner(self) -> str:
        return f"({self.text})" if self.is_sum else self.text

    def _of(self, text: str, function: Callable[[Floats], Floats]) -> Quantity:
        return Quantity(
            text=text,
            needs=self.needs,
            readings=self.readings,
            compute=lambda read: function(self.compute(read)),
        )

    def _with(self, text: str, other: Quantity, function: Callable[[Floats, Floats], Floats]) -> Quantity:
        return Quantity(
            text=text,
            needs=(*self.needs, *other.needs),
            readings=(*self.readings, *other.readings),
            compute=lambda read: function(self.compute(read), other.compute(read)),
            is_sum=True,
        )


def value(model: Model, at: int, name: str = "E") -> Quantity:
    """The metric after a context of `at`; of a perplexity its logarithm."""
    point = Point(model=model, at=at)
    return Quantity(text=f"{name}({model}; {at:,})", needs=(point,), compute=lambda read: read(point).values)


def at_queries(model: Model, queries: int) -> Quantity:
    """The metric at a context of L_train, averaged over so many queries."""
    point = Point(model=model, axis="queries", at=queries)
    text = f"E({model}; {queries:,} quer{'y' if queries == 1 else 'ies'})"
    return Quantity(text=text, needs=(point,), compute=lambda read: read(point).values)


def chance(model: Model, at: int) -> Quantity:
    """The value of the best answer that ignores the context, on the same items."""
    point = Point(model=model, at=at)
    return Quantity(text="chance", needs=(point,), compute=lambda read: _one(read(point).chance))


def log2_best(model: Model, lengths: tuple[int, ...]) -> Quantity:
    """log2 of L*, the length of the lowest error.

    L* is the vertex of the parabola through the lowest point of the grid and its neighbours, over log2 L.
    """
    return _curve(f"log2 L* ({model})", model, lengths, _vertex)


def log2_failure(model: Model, lengths: tuple[int, ...]) -> Quantity:
    """log2 of L_fail, where the error first rises above chance beyond its lowest point.

    Interpolated in log2 L. Unusable if a seed never fails within the grid.
    """
    return _curve(f"log2 L_fail ({model})", model, lengths, _failure)


def reading(look: Look, name: str, at: int | None = None, group: str = "") -> Quantity:
    """What a probe reads, one number a seed; see `Reading`."""
    found = Reading(look=look, name=name, at=at, group=group)
    place = [str(look.model), *([f"{at:,}"] if at is not None else []), *([group] if group else [])]
    text = f"{look.probe}: {name} ({'; '.join(place)})"
    return Quantity(text=text, needs=(), readings=(found,), compute=lambda read: read(found).values)


def _curve(
    text: str, model: Model, lengths: tuple[int, ...], function: Callable[[Floats, Floats, float], float]
) -> Quantity:
    points = tuple(Point(model=model, at=length) for length in lengths)
    octaves = np.log2(np.asarray(lengths))

    def compute(read: Read) -> Floats:
        samples = [read(point) for point in points]
        curves = np.stack([sample.values.mean(axis=1) for sample in samples], axis=1)
        level = float(np.mean([sample.chance for sample in samples]))
        return np.array([[function(octaves, curve, level)] for curve in curves])

    return Quantity(text=text, needs=points, compute=compute)


def _vertex(octaves: Floats, errors: Floats, level: float) -> float:
    lowest = int(np.argmin(errors))
    if lowest in (0, len(errors) - 1):
        return float(octaves[lowest])
    x, y = octaves[lowest - 1 : lowest + 2], errors[lowest - 1 : lowest + 2]
    square, linear, _ = np.polyfit(x, y, 2)
    return float(-linear / (2 * square))


def _failure(octaves: Floats, errors: Floats, level: float) -> float:
    lowest = int(np.argmin(errors))
    above = np.flatnonzero(errors[lowest:] > level)
    if not above.size:
        raise Unusable(f"a seed is never worse than chance up to {round(2 ** octaves[-1]):,}")
    if not above[0]:
        return float(octaves[lowest])
    before, after = lowest + above[0] - 1, lowest + above[0]
    share = (level - errors[before]) / (errors[after] - errors[before])
    return float(octaves[before] + share * (octaves[after] - octaves[before]))


def _log(values: Floats) -> Floats:
    mean = values.mean(axis=1, keepdims=True)
    if (mean <= 0).any():
        raise Unusable("a mean is not above 0, so it has no logarithm")
    logarithms: Floats = np.log(mean) + (values - mean) / mean
    return logarithms


def _one(number: float) -> Floats:
    return np.full((1, 1), number)
