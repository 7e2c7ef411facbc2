"""Two clocks in each layer of a scan: one for what is written, one for what is forgotten."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lgbench.errors import UserError
from lgbench.method import Mode, ScanIntervention

Layers = str | tuple[int, ...]
"""Layers in which a clock is slow: "none", "all", or their numbers."""


class Clocks(ScanIntervention):
    """Scales write and decay of layers by s = min(1, c L_train / L), in the context, the queries, or both.

    Queries are what follows a kept state (mode "decode"); where a sequence comes in one piece, the trailing
    protected positions.

    Args:
        train_length: L_train, tokens.
        law: slow layers of write and of decay, whether context and queries are scaled, and c; None until
            `use` brings one.
    """

    def __init__(
        self, train_length: int, law: tuple[Layers, Layers, tuple[bool, bool], float] | None
    ) -> None:
        self.train_length, self.by_hand = train_length, law
        self.use({})

    def use(self, fitted: Mapping[str, Tensor]) -> None:
        """Take a law as `selection.Law.tensors` writes it; without one, the one given by hand or none."""
        law = self.by_hand or ("none", "none", (True, True), 1.0)
        if "clock_c" in fitted:
            slow = (
                tuple(fitted[f"clock_{name}"].nonzero().flatten().tolist()) for name in ("write", "decay")
            )
            law = (*slow, tuple(fitted["clock_where"].bool().tolist()), fitted["clock_c"].item())
        self.write, self.decay, (self.in_context, self.in_queries), self.c = law

    def begin(self, mode: Mode, length: int | Tensor, num_protected: int) -> None:
        """Find s; rest where nothing changes.

        Raises:
            UserError: context and queries come in one piece, and A would have to differ between them.
        """
        self.scale = min(1.0, self.c * self.train_length / float(length))
        slow = {*_numbers(self.write), *_numbers(self.decay)}
        self.layers = None if "all" in (self.write, self.decay) else tuple(sorted(slow))
        self.tail = 0 if mode == "decode" else num_protected
        acts = self.in_queries if mode == "decode" else self.in_context or (self.tail and self.in_queries)
        self.resting = self.scale == 1 or not acts or self.layers == ()
        apart = self.tail and self.in_context != self.in_queries
        if not self.resting and apart and self.write != self.decay:
            raise UserError(
                "clock_law: context and queries come in one piece here, so one clock alone cannot differ "
                "between them. Choose where=both, or write and decay of the same layers."
            )

    def timestep(self, layer: int, delta: Tensor) -> Tensor:
        """w Δ `(batch, length, d_inner)`."""
        write, _ = self._factors(layer)
        if not self.tail or self.in_context == self.in_queries:
            return delta * write
        context, queries = delta[:, : -self.tail], delta[:, -self.tail :]
        return torch.cat([context * write, queries] if self.in_context else [context, queries * write], dim=1)

    def transition(self, layer: int, A: Tensor) -> Tensor:
        """(d / w) A `(d_inner, d_state)`, Mamba-2 `(heads,)`: with the step w Δ the decay is d Δ A."""
        write, decay = self._factors(layer)
        return A * (decay / write)

    def _factors(self, layer: int) -> tuple[float, float]:
        """Of write and decay where they are scaled: s or 1."""
        return tuple(self.scale if _has(slow, layer) else 1.0 for slow in (self.write, self.decay))


def _has(slow: Layers, layer: int) -> bool:
    return slow == "all" or layer in _numbers(slow)


def _numbers(slow: Layers) -> tuple[int, ...]:
    return () if isinstance(slow, str) else slow
