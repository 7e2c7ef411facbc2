"""Select a clock law on validation items: greedy moves, then the simplest law that is as good as the best.

From no change at all, the best of these moves is taken until none lowers the mean loss of all items:

    the slow clocks of one layer, or of all, become none, write, decay or both;  another c;  another part

Of all laws tried, the simplest is taken that is within one standard error of the best. The error is of the
paired difference: every law is tried on the same items, and differences between items say nothing of laws.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

EVERYWHERE = {"both": (True, True), "context": (True, False), "queries": (False, True)}
"""Whether context and queries are scaled."""


@dataclass(frozen=True)
class Law:
    """Which clocks are slow, in which part, and from which multiple of the training length on."""

    write: tuple[bool, ...]
    decay: tuple[bool, ...]
    where: str = "both"
    c: float = 1.0

    @property
    def choices(self) -> int:
        """How many choices describe it: 0 for no change, 1 for the same clocks in all layers from L_train on,
        else one for each layer that is changed and one for saying that not all are; one for c and where each.
        """
        kinds = [*zip(self.write, self.decay, strict=True)]
        changed = sum(any(kind) for kind in kinds)
        if not changed:
            return 0
        layers = 1 if len({*kinds}) == 1 else 1 + changed
        return layers + (self.where != "both") + (self.c != 1)

    def tensors(self) -> dict[str, Tensor]:
        """What `Clocks.use` takes: write and decay `(num_layers,)`, where `(2,)`, c `()`."""
        parts = {"write": self.write, "decay": self.decay, "where": EVERYWHERE[self.where], "c": self.c}
        return {f"clock_{name}": torch.tensor(value, dtype=torch.float32) for name, value in parts.items()}


@dataclass(frozen=True)
class Space:
    """What may be chosen: by layer for write and decay, and values of where and c; the first ones start."""

    write: tuple[tuple[bool, ...], ...]
    decay: tuple[tuple[bool, ...], ...]
    where: tuple[str, ...]
    c: tuple[float, ...]

    def start(self) -> Law:
        """The first of everything: no change, wherever that is allowed."""
        write, decay = (tuple(may[0] for may in side) for side in (self.write, self.decay))
        return Law(write, decay, self.where[0], self.c[0])

    def moves(self, law: Law) -> Iterator[Law]:
        """Laws one move away."""
        layers = range(len(self.write))
        groups = [[k] for k in layers] + [[*layers]]
        for group in groups:
            for write in (False, True):
                for decay in (False, True):
                    yield replace(
                        law,
                        write=_changed(law.write, self.write, group, write),
                        decay=_changed(law.decay, self.decay, group, decay),
                    )
        if law.choices:  # otherwise c and where say nothing
            yield from (replace(law, c=c) for c in self.c)
            yield from (replace(law, where=where) for where in self.where)


def select(losses: Callable[[Law], Tensor], space: Space) -> Law:
    """Return the law.

    Args:
        losses: of each validation item under a law `(num_lengths, num_items)`, nats or the task's own.
        space: what may be chosen.
    """
    tried: dict[Law, Tensor] = {}

    def mean(law: Law) -> float:
        if law not in tried:
            tried[law] = losses(law).double().cpu()
        loss = tried[law].mean().item()
        return loss if math.isfinite(loss) else math.inf

    law = space.start()
    while mean(better := min(space.moves(law), key=mean)) < mean(law):
        law = better
    good = [one for one in tried if mean(one) <= mean(law) + _standard_error(tried[one] - tried[law])]
    return min(good, key=lambda one: (one.choices, mean(one)))


def _changed(
    now: tuple[bool, ...], allowed: tuple[tuple[bool, ...], ...], group: list[int], value: bool
) -> tuple[bool, ...]:
    """The clocks with those of a group set, wherever that is allowed."""
    return tuple(value if k in group and value in allowed[k] else now[k] for k in range(len(now)))


def _standard_error(differences: Tensor) -> float:
    """Of the mean of differences `(num_lengths, num_items)`, whose items are independent at each length."""
    error = differences.var(dim=1).sum().sqrt().item() / math.sqrt(differences[0].numel())
    return error / len(differences) if math.isfinite(error) else 0.0
