"""Scales in the scan."""

from __future__ import annotations

import torch
from torch import Tensor

from lgbench.method import ScanIntervention


class ScaleIntervention(ScanIntervention):
    """Holds scales; rests where all of them are 1."""

    key: str
    fixed: float | None
    scales: Tensor | None

    def use(self, fitted: dict[str, Tensor]) -> None:
        """Take `(num_layers or 1, …)` scales; without any, the fixed one or none."""
        fixed = None if self.fixed is None else torch.full((1, 1), self.fixed)
        self.scales = fitted.get(self.key, fixed)
        neutral = self.scales is None or bool((self.scales == 1).all())
        self.resting = neutral and not (self.scales is not None and self.scales.requires_grad)

    def scale_of(self, layer: int, like: Tensor) -> Tensor:
        """`(channels,)`, `(1,)` or `(channels, d_state)`, on the device of `like`."""
        return self.scales[layer if len(self.scales) > 1 else 0].to(like.device)
