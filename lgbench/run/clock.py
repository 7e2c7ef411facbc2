"""Time and memory of a measurement, with the device's queued work in it."""

from __future__ import annotations

import resource
import sys
import time

import torch


class Clock:
    """Seconds and peak memory since it was made, device work included."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            torch.cuda.reset_peak_memory_stats(device)
        self.began = time.monotonic()
        self.first: tuple[float, float] | None = None
        """Share of the items in the first batch, and its seconds."""

    def lap(self, share: float) -> None:
        """The first `share` of the items are done; the first call counts."""
        if self.first is None:
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            self.first = share, time.monotonic() - self.began

    def warm_rate(self, tokens: int, wall_s: float) -> float | None:
        """Tokens a second of what came after the first lap, of `tokens` and `wall_s` in all."""
        if self.first is None or self.first[0] >= 1 or wall_s <= self.first[1]:
            return None
        return tokens * (1 - self.first[0]) / (wall_s - self.first[1])

    def stop(self) -> tuple[float, int]:
        """Seconds, and bytes: peak of the device, or of the process on a CPU."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            return time.monotonic() - self.began, torch.cuda.max_memory_allocated(self.device)
        unit = 1 if sys.platform == "darwin" else 1024
        return time.monotonic() - self.began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
