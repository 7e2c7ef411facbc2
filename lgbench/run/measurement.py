"""One number of an evaluation, for every item: what `evaluate` gives and rows are written from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from torch import Tensor

from lgbench.task import Metric


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """A metric of every item at one point of one axis."""

    metric: Metric
    axis: Literal["context", "queries", "position"]
    eval_length: int
    context_tokens: int
    num_queries: int
    values: np.ndarray
    """float32 `(num_items,)`, of the items that the metric applies to."""
    facts: Mapping[str, list] = field(default_factory=dict)
    """What the task keeps of each of these items."""
    clusters: tuple[str, ...] = ()
    """What each of these items belongs to; empty where they are independent."""
    shared_prefix: bool
    kept_tokens: tuple[int, ...]
    """Tokens that each layer processed, queries included; empty for methods that drop none."""
    scan_backend: str
    """What computed scan or attention; a method that rests at this length may leave it to a faster one."""
    wall_s: float
    tokens: int
    warm_tokens_per_s: float | None
    """Without the first batch of items, which compiles kernels; None where there was one batch only."""
    peak_bytes: int
    at_rest: bool = False
    """Whether a method that may change the scan changed nothing here."""
    state_bytes: int | None = None
    """What is carried along one sequence after the context, before the queries; None where nothing is."""


def item_means(scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return scores `(batch,)` of items, from those of their queries `(batch, num_queries)`, by metric."""
    return {name: values.mean(dim=1) for name, values in scores.items()}
