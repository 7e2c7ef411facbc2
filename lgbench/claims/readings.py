"""Look up what probes read in the models of claims, among the readings of results folders alone."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from lgbench.claims.model import Model
from lgbench.store.readings import Readings


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """A probe that is asked for on every seed of a model, with all layers.

    Attributes:
        probe: as `lgbench probe` takes it, with the parameters that differ from their defaults.
        lengths: of the contexts that are read, in the task's unit, increasing.
        items: to read, at least.
    """

    probe: str
    model: Model
    lengths: tuple[int, ...]
    items: int

    @property
    def name(self) -> str:
        """The probe without its parameters."""
        return self.probe.partition("[")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One number of a probe; `name`, `at` and `group` are those of the stored reading of the whole model.

    Attributes:
        at: its length, None where it has none.
    """

    look: Look
    name: str
    at: int | None = None
    group: str = ""

    @property
    def model(self) -> Model:
        """The model that is looked into."""
        return self.look.model


class Stored:
    """Readings of results folders, by probe and trained model.

    Args:
        readings: as `lgbench.store.readings.all_readings` gives them.
    """

    def __init__(self, readings: Iterable[Readings] = ()) -> None:
        self._known: dict[tuple[str, str, str], list[Readings]] = {}
        for one in readings:
            facts = one.facts
            place = (str(facts.get("probe_label")), str(facts.get("training")), str(facts.get("label")))
            self._known.setdefault(place, []).append(one)

    def find(self, look: Look, trainings: Collection[str]) -> Readings | None:
        """The newest readings of a look in one of these trainings, None without any."""
        found = [
            one
            for training in trainings
            for one in self._known.get((look.probe, training, look.model.method), [])
            if _answers(one, look)
        ]
        return max(found, key=lambda one: str(one.facts.get("created_at")), default=None)


def number(found: Readings, reading: Reading) -> float:
    """The number of a reading.

    Raises:
        LookupError: the probe gives none of that name and place.
        ArithmeticError: it is not finite.
    """
    value = found.value(reading.name, reading.at, None, reading.group)
    if not math.isfinite(value):
        raise ArithmeticError(f"{reading.name} is {value}")
    return value


def _answers(one: Readings, look: Look) -> bool:
    facts = one.facts
    return (
        tuple(facts.get("lengths", ())) == look.lengths
        and facts.get("items", 0) >= look.items
        and facts.get("layers") == list(range(facts.get("num_layers", 0)))
    )
