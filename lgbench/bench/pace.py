"""Time pieces of work as multiples of a fixed reference that is timed in turns with them, in one process.

A busy machine slows both alike, so the ratio says how fast the code is, and seconds are never compared. The
reference is plain PyTorch and calls nothing of lgbench: a slower lgbench does not slow it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from statistics import median
from typing import NamedTuple

import torch

from lgbench.bench.timing import Call, wall_clock

ROUNDS = 25
BUSY = 1.1
"""Wall time of the reference ÷ its time on the processor, above which the machine counts as busy."""
TRIES = 3
"""Measurements of what looks too slow; it is slow if each of them says so."""
_BATCH, _LENGTH, _WIDTH, _STATE, _STEPS = 32, 16, 64, 8, 3
"""Sizes of the reference; about as long as a piece of work, so that both are disturbed as often."""

BothClocks = Callable[[Call], tuple[float, float]]
"""Runs a call once; milliseconds of wall time and on the processor."""


class Pace(NamedTuple):
    """What was timed: the ratio of each piece of work, and whether the machine was busy meanwhile."""

    ratios: dict[str, float]
    is_busy: bool


Measure = Callable[[Iterable[str]], Pace]
"""Times these pieces of work."""


def reference(device: torch.device) -> Call:
    """Training steps of a small gated recurrence in plain PyTorch: products, elementwise work, a loop.

    The mixture is that of a small training step here, so that one processor speeds up both alike.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(_BATCH, _LENGTH, _WIDTH, generator=generator).to(device)
    ways = [
        (torch.randn(_WIDTH, _WIDTH, generator=generator) / 8).to(device).requires_grad_() for _ in range(2)
    ]
    rates = -torch.arange(1.0, _STATE + 1, device=device)

    def step() -> None:
        hidden = x
        for way in ways:
            inner = hidden @ way
            decay = torch.exp(torch.nn.functional.softplus(inner).unsqueeze(-1) * rates)
            state, seen = torch.zeros_like(decay[:, 0]), []
            for at in range(_LENGTH):
                state = decay[:, at] * state + inner[:, at].unsqueeze(-1)
                seen.append(state.sum(-1))
            hidden = hidden + torch.nn.functional.silu(torch.stack(seen, dim=1))
        gradients = torch.autograd.grad(hidden.square().mean(), ways)
        with torch.no_grad():
            for way, gradient in zip(ways, gradients, strict=True):
                way.sub_(gradient, alpha=1e-9)  # the work of an update; the weights stay what they are

    def steps() -> None:
        for _ in range(_STEPS):
            step()

    return steps


def both_clocks(device: torch.device) -> BothClocks:
    """Wall time, and time on the processor; on a GPU wall time twice."""
    wall = wall_clock(device)

    def clock(call: Call) -> tuple[float, float]:
        began = time.process_time()
        took = wall(call)
        on_processor = (time.process_time() - began) * 1e3
        return took, took if device.type == "cuda" else on_processor

    return clock


def ratios(works: Mapping[str, Call], beside: Call, clock: BothClocks, rounds: int = ROUNDS) -> Pace:
    """Time of all rounds ÷ time of the reference just before and just after each, for every piece of work.

    Times are wall times, of which the median of the rounds' ratios counts. On a busy machine, where the
    reference waits for a processor for more than a tenth of its time, they are times on the processor, and
    work that sleeps is not seen; there the ratio of sums counts, since whoever shares a processor slows long
    and short pieces in proportion, but seldom every piece.

    Args:
        works: pieces of work by name; each is run twice untimed first.
        beside: the reference.
        clock: see `both_clocks`.
        rounds: one of each a round.
    """
    for call in (beside, *works.values()):
        call()
        call()
    found: dict[str, list[tuple[tuple[float, float], ...]]] = {name: [] for name in works}
    waits = []
    for _ in range(rounds):
        before = clock(beside)
        for name, work in works.items():
            took, after = clock(work), clock(beside)
            found[name].append((took, before, after))
            waits.append(after[0] / after[1])
            before = after
    if median(waits) <= BUSY:
        middle = {
            name: median(2 * took[0] / (before[0] + after[0]) for took, before, after in several)
            for name, several in found.items()
        }
        return Pace(middle, is_busy=False)
    whole = sum(before[1] + after[1] for several in found.values() for _, before, after in several)
    share = whole / (2 * rounds * len(works))
    sums = {name: sum(took[1] for took, _, _ in several) for name, several in found.items()}
    return Pace({name: took / rounds / share for name, took in sums.items()}, is_busy=True)


def confirmed(measure: Measure, names: Iterable[str], limits: Mapping[str, float]) -> Pace:
    """Ratios of all names; what is above its limit is measured again, and the fastest of `TRIES` counts.

    A disturbance seldom lasts for all tries; slower code does. What has no limit yet gets the median of
    `TRIES`. The machine counts as busy if it was in any try.
    """
    names, was_busy = list(names), False

    def again(asked: list[str]) -> dict[str, float]:
        nonlocal was_busy
        pace = measure(asked)
        was_busy |= pace.is_busy
        return pace.ratios

    found = again(names)
    if new := [name for name in names if name not in limits]:
        tries = [found, *(again(new) for _ in range(TRIES - 1))]
        found |= {name: median(one[name] for one in tries) for name in new}
    for _ in range(TRIES - 1):
        suspects = [name for name, ratio in found.items() if ratio > limits.get(name, float("inf"))]
        if not suspects:
            break
        for name, ratio in again(suspects).items():
            found[name] = min(found[name], ratio)
    return Pace(found, was_busy)


@contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """On a CPU one thread, so that ratios do not depend on how many there are."""
    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
