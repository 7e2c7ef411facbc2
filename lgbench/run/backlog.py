"""Keep short what waits on a GPU, so that an interrupted training is saved soon and not after minutes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import torch

BACKLOG_S = 0.5
"""Seconds of work that may wait; less would let the device idle while Python does something else."""

MOST_ROUNDS = 1000


class Backlog:
    """Rounds of training steps that were queued and are not known to be over.

    Args:
        make_event: an event that is recorded on a stream and can be waited for.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        make_event: Callable[[], Any] = torch.cuda.Event,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._make_event, self._clock = make_event, clock
        self._waiting: deque[list[Any]] = deque()
        self._over_at: float | None = None
        self.most = 2
        """Rounds that may wait; follows from how long they take."""

    def keep_short(self, streams: Iterable[Any]) -> None:
        """Note a round that was queued just now on these streams, and wait until few enough are left."""
        events = []
        for stream in streams:
            events.append(self._make_event())
            events[-1].record(stream)
        self._waiting.append(events)
        while len(self._waiting) > self.most:
            for event in self._waiting.popleft():
                event.synchronize()
            now, before = self._clock(), self._over_at
            self._over_at = now
            if before is not None:
                wanted = int(BACKLOG_S / max(now - before, 1e-6))
                self.most = max(2, min(wanted, 2 * self.most, MOST_ROUNDS))
