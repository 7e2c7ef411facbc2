"""Take times fairly: warm, synchronised, in turns, and on a GPU with nothing left in the cache."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping
from statistics import median
from typing import NamedTuple, TypeVar

import torch

from lgbench.run.graphs import no_garbage_collection

Call = Callable[[], object]
Clock = Callable[[Call], float]
"""Runs a call once; milliseconds."""
Key = TypeVar("Key", bound=Hashable)

CACHE_BYTES = 2**28
"""Written before each sample on a GPU: several times the last-level cache of today's cards."""
COPY_BYTES = {"cuda": 2**31, "cpu": 2**28}


def synchronise(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def wall_clock(device: torch.device) -> Clock:
    """For whole programs: Python, launches and all streams included."""

    def clock(call: Call) -> float:
        synchronise(device)
        began = time.perf_counter()
        call()
        synchronise(device)
        return (time.perf_counter() - began) * 1e3

    return clock


def cold_clock(device: torch.device) -> Clock:
    """For single operations: device time on the current stream, with the cache emptied before.

    While the cache is emptied Python runs ahead: launches count only as far as the device waits for them.
    """
    if device.type != "cuda":
        return wall_clock(device)
    evict = torch.empty(CACHE_BYTES, dtype=torch.uint8, device=device)

    def clock(call: Call) -> float:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        evict.zero_()
        start.record()
        call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)

    return clock


def interleave(
    calls: Mapping[Key, Call], clock: Clock, repeats: int, budget_s: float
) -> dict[Key, list[float] | Exception]:
    """Samples of every call, taken in turns: one of each a round.

    Args:
        calls: warmed up.
        clock: see above.
        repeats: rounds.
        budget_s: a call that has taken so many seconds in all sits out the remaining rounds.

    Returns:
        Milliseconds of at least one sample each, or what the call raised.
    """
    found: dict[Key, list[float] | Exception] = {key: [] for key in calls}
    for _ in range(repeats):
        for key, call in calls.items():
            samples = found[key]
            if isinstance(samples, Exception) or sum(samples) > budget_s * 1e3:
                continue
            try:
                samples.append(clock(call))
            except Exception as error:  # of this contender; the others go on
                found[key] = error
    return found


def captured(call: Call, device: torch.device) -> Call:
    """The call as a CUDA graph; what it returns is that of the capture."""
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        call()
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with no_garbage_collection(), torch.cuda.graph(graph, stream=stream):
        kept = call()

    def replay() -> object:
        graph.replay()
        return kept

    return replay


class Copies(NamedTuple):
    """Samples of one large copy."""

    samples: list[float]
    """Milliseconds."""
    size: int
    """Bytes read and written by each."""
    rate: float
    """Bytes per second at the median."""


def copy_samples(device: torch.device, repeats: int) -> Copies:
    """Time a large copy within the device's memory."""
    source = torch.ones(COPY_BYTES[device.type] // 4, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    size = 2 * source.numel() * source.element_size()
    clock = cold_clock(device)
    samples = [clock(lambda: target.copy_(source)) for _ in range(repeats)]
    return Copies(samples, size, size / median(samples) * 1e3)
