"""Keys and values of a layer that grow at the end; older states of the same sequence stay valid.

A state that the core keeps may be continued several times: by the queries of one grid length, then by the
rest of the context. Continuations share one buffer for as long as nobody alive sees what would be written
over; otherwise the second one gets a copy.
"""

from __future__ import annotations

from typing import NamedTuple
from weakref import WeakSet

import torch
from torch import Tensor


class LayerCache(NamedTuple):
    """What an attention layer carries along the sequence."""

    past: KeyValues
    real: Tensor | None
    """bool `(batch, tokens)`, False for masked tokens among `past`; None where no token was ever masked."""
    count: int | Tensor
    """Real tokens so far: `(batch, 1)` int64 where some were masked."""


class KeyValues:
    """The first `length` entries of a buffer.

    Args:
        keys: `(batch, heads, capacity, head)`, capacity ≥ length.
        values: the same shape.
        length: tokens that belong to this state.
        sharers: all living states on this buffer.
    """

    def __init__(
        self, keys: Tensor, values: Tensor, length: int, sharers: WeakSet[KeyValues] | None = None
    ) -> None:
        self._keys, self._values, self.length = keys, values, length
        self._sharers = WeakSet() if sharers is None else sharers
        self._sharers.add(self)

    @property
    def keys(self) -> Tensor:
        """`(batch, heads, length, head)`."""
        return self._keys[:, :, : self.length]

    @property
    def values(self) -> Tensor:
        """`(batch, heads, length, head)`."""
        return self._values[:, :, : self.length]

    @property
    def nbytes(self) -> int:
        """Bytes of the tokens of this state, room for more not counted."""
        return self.keys.nbytes + self.values.nbytes

    def extended(self, keys: Tensor, values: Tensor) -> KeyValues:
        """This state followed by `(batch, heads, new, head)`; this state itself does not change.

        Costs the new tokens alone, except when the buffer is full (it then grows by a quarter), when a longer
        state of the same buffer is alive, or when gradients are recorded (a plain concatenation).
        """
        length = self.length + keys.shape[2]
        if torch.is_grad_enabled():
            return KeyValues(
                torch.cat([self.keys, keys], dim=2), torch.cat([self.values, values], dim=2), length
            )
        shared = any(other.length > self.length for other in self._sharers)
        if shared or length > self._keys.shape[2]:
            grown = _with_room(self.keys, length), _with_room(self.values, length)
            following = KeyValues(*grown, length)
        else:
            following = KeyValues(self._keys, self._values, length, self._sharers)
        following._keys[:, :, self.length : length] = keys
        following._values[:, :, self.length : length] = values
        return following


def _with_room(old: Tensor, length: int) -> Tensor:
    new = old.new_empty(*old.shape[:2], length + max(64, length // 4), old.shape[3])
    new[:, :, : old.shape[2]] = old
    return new
