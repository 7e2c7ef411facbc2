"""A claim: what somebody says about length generalization, in a form that rows can decide."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lgbench.claims.cells import Point
from lgbench.claims.model import Model
from lgbench.claims.quantities import Quantity
from lgbench.claims.readings import Reading


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A quantity lies between two limits; one of them may be infinite.

    Attributes:
        quantity: what is measured.
        low: the claim is that the quantity is above this.
        high: and below this.
    """

    quantity: Quantity
    low: float = -math.inf
    high: float = math.inf

    def threshold(self) -> str:
        """The limits in words: "> 0", "< 0.5", "in (−0.05, 0.05)"."""
        if math.isinf(self.high):
            return f"> {_number(self.low)}"
        if math.isinf(self.low):
            return f"< {_number(self.high)}"
        return f"in ({_number(self.low)}, {_number(self.high)})"


def above(quantity: Quantity, limit: float = 0.0) -> Part:
    """The claim that a quantity is larger than a limit."""
    return Part(quantity=quantity, low=limit)


def below(quantity: Quantity, limit: float = 0.0) -> Part:
    """The claim that a quantity is smaller than a limit."""
    return Part(quantity=quantity, high=limit)


def within(quantity: Quantity, low: float, high: float) -> Part:
    """The claim that a quantity lies between two limits: flatness, or equivalence."""
    return Part(quantity=quantity, low=low, high=high)


def within_percent(one: Quantity, other: Quantity, percent: float) -> Part:
    """The claim that two positive quantities differ by less than so many percent."""
    return within(one.log() - other.log(), math.log1p(-percent / 100), math.log1p(percent / 100))


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One claim; it holds if all of its parts do.

    Attributes:
        id: short name, unique.
        source: paper with section or figure, or "our own".
        statement: the claim in a sentence.
        parts: what must be true.
        inferred: what the source does not print (thresholds, settings), in words; empty if nothing.
        conditions: in what the measured setting differs from that of the source; empty for claims of our own.
    """

    id: str
    source: str
    statement: str
    parts: tuple[Part, ...]
    inferred: str = ""
    conditions: str = ""

    @property
    def points(self) -> tuple[Point, ...]:
        """All points that its parts read, each once."""
        return tuple(dict.fromkeys(point for part in self.parts for point in part.quantity.needs))

    @property
    def models(self) -> tuple[Model, ...]:
        """All models that its parts read, each once; those that only probes read too."""
        of_points, of_probes = ([one.model for one in found] for found in (self.points, self.readings))
        return tuple(dict.fromkeys([*of_points, *of_probes]))

    @property
    def readings(self) -> tuple[Reading, ...]:
        """What it needs of probes."""
        return tuple(dict.fromkeys(reading for part in self.parts for reading in part.quantity.readings))


def _number(value: float) -> str:
    return f"{value:.3g}".replace("-", "−")
