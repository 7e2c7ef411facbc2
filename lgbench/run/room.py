"""Measure as much of a grid as memory has room for: smaller batches and pieces before a point is given up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeVar

from lgbench.run.failures import free_memory, is_out_of_memory, one_line
from lgbench.run.reading import piece_of

LEAST_PIECE = 256
"""Tokens of a piece below which less would save no memory: the weights are larger."""

Found = TypeVar("Found")


class NoRoom(MemoryError):
    """Memory ran out even with the smallest batch and piece."""


@dataclass(frozen=True, slots=True)
class Lost:
    """A point of an axis that memory had no room for."""

    axis: Literal["context", "queries"]
    eval_length: int
    num_queries: int
    reason: str


@dataclass
class Room:
    """How much is read at a time; less once memory ran out.

    Attributes:
        batch: items.
        piece: tokens of each item, at most; None where `piece_of` decides.
        used: items that were read together last; long ones are fewer than `batch`.
    """

    batch: int
    piece: int | None = None
    used: int = 0

    def piece_of(self, batch: int) -> int:
        """Tokens of each of `batch` items that are read at a time."""
        return piece_of(batch) if self.piece is None else min(self.piece, piece_of(batch))

    def batches(self, num_items: int, size: int | None = None) -> Iterator[slice]:
        """Parts of the items, `size` each, or else `batch`."""
        size = size or self.batch
        self.used = min(size, num_items)
        return (slice(k, min(k + size, num_items)) for k in range(0, num_items, size))

    def shrink(self, in_pieces: bool) -> bool:
        """Halve the batch, or else the pieces; False if nothing smaller is left."""
        if self.used > 1:
            self.batch = max(1, self.batch // 2)
            return True
        if not in_pieces or self.piece_of(1) <= LEAST_PIECE:
            return False
        self.piece = max(LEAST_PIECE, self.piece_of(1) // 2)
        return True

    def fit(self, work: Callable[[], Found], in_pieces: bool) -> Found:
        """What `work` gives, tried again with less at a time while memory runs out.

        Raises:
            NoRoom: nothing smaller is left to try.
        """
        while True:
            try:
                return work()
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                reason = one_line(error)
            free_memory()  # here, where no traceback holds the tensors any longer
            if not self.shrink(in_pieces):
                pieces = f" and {self.piece_of(1):,} tokens" if in_pieces else ""
                raise NoRoom(f"no room for one item{pieces} at a time: {reason}")
