"""Windows of held-out books: the evaluation items of perplexity, the same at every length or as published."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from lgbench.data.fingerprint import digest
from lgbench.errors import UserError
from lgbench.task import EvalSet, Tensors

if TYPE_CHECKING:
    from lgbench.tasks.perplexity import Perplexity

NUM_LABELS = 100
"""Of each window, after its context."""
WINDOWS_A_BOOK = 10
LONGEST = 4096
"""Longest context of evaluation items that were not told another."""


class Windows(EvalSet):
    """Fixed windows of the held-out books.

    Args:
        task: prepared.
        num_items: the most there may be.
        seed: shifts the windows of each book by less than their distance.
    """

    def __init__(self, task: Perplexity, num_items: int, seed: int) -> None:
        self.task, self.seed, self._most = task, seed, num_items
        self.reach(min(LONGEST, task.eval_books.longest - NUM_LABELS - 1))

    def reach(self, longest: int) -> None:
        """Choose windows for contexts of up to `longest` tokens, of books that are long enough for these.

        Ten a book at most, spread over it; the first ones of all books are taken before second ones.

        Raises:
            UserError: no book is long enough.
        """
        self.longest = longest
        self.task.check_length("--eval-lengths", longest + NUM_LABELS, train=False)
        windows = self._released(1) if not self.task.nested else self._clean()
        self._use(windows[: self._most])
        self.num_items = len(self.book)
        settings = f"{self.task.params.protocol} {self.task.data_fingerprint} {self.seed} {longest}"
        self.fingerprint = digest(f"{settings} {self.num_items}")

    def num_items_at(self, length: int) -> int:
        """Items there are at this length."""
        self._at(length)
        return len(self.book)

    def context(self, items: slice, start: int, stop: int, length: int) -> Tensors:
        """Tokens `start` to `stop` of the windows; `stop` may go beyond the context."""
        return {"tokens": self._read(self._at(length)[items], start, stop)}

    def queries(self, items: slice, length: int, num_queries: int) -> tuple[Tensors, Tensor]:
        """The tokens after the context, and the token after each."""
        window = self._read(self._at(length)[items], length, length + num_queries + 1)
        return {"tokens": window[:, :-1]}, window[:, 1:]

    def facts(self, length: int) -> dict[str, list]:
        """Number of each window's book among those held out, and the token of it that comes first."""
        self._at(length)
        return {"book": self.book.tolist(), "offset": self.offset.tolist()}

    def _at(self, length: int) -> Tensor:
        """Token of the corpus that each window for contexts of this length starts with."""
        if not self.task.nested and length != self._length:
            self._use(self._released(length)[: self._most], length)
        elif length > self.longest:
            raise UserError(
                f"these windows were chosen for contexts of up to {self.longest} tokens, not {length}"
            )
        return self._begin

    def _use(self, windows: np.ndarray, length: int = 0) -> None:
        self.book, self.offset = windows[:, 0], windows[:, 1]
        begin = self.task.eval_books.starts[torch.from_numpy(self.book).to(self.task.device)]
        self._begin, self._length = begin + torch.from_numpy(self.offset).to(self.task.device), length

    def _clean(self) -> np.ndarray:
        """(book, offset) of ten windows a book, all first ones before all second ones.

        No label is asked for twice: windows are at least `NUM_LABELS` apart, and there are fewer of a book
        that has no room for ten, but one of each that is long enough.
        """
        shift = np.random.default_rng(self.seed).random(len(self.task.eval_books.sizes))
        windows = []
        for book, size in enumerate(self.task.eval_books.sizes.tolist()):
            places = size - self.longest - NUM_LABELS  # of the first token of a window
            count = min(WINDOWS_A_BOOK, max(places // NUM_LABELS, int(places > 0)))
            apart = places // max(1, count)
            windows += [(k, book, k * apart + int(shift[book] * apart)) for k in range(count)]
        return np.array([(book, offset) for _, book, offset in sorted(windows)], dtype=np.int64)

    def _released(self, length: int) -> np.ndarray:
        """(book, offset) of the windows of every book that is longer than one, all first ones first.

        Windows and their distance are as published: W = `length` + 101 tokens, the labels included.
        """
        windows, size = [], length + NUM_LABELS + 1
        for book, tokens in enumerate(self.task.eval_books.sizes.tolist()):
            stride = max(10, (tokens - size) // 10)
            windows += [(k, book, at) for k, at in enumerate(range(0, tokens - size, stride))]
        chosen = [(book, offset) for _, book, offset in sorted(windows)]
        return np.array(chosen, dtype=np.int64).reshape(-1, 2)

    def _read(self, begin: Tensor, start: int, stop: int) -> Tensor:
        place = torch.arange(start, stop, device=self.task.device)
        return self.task.eval_books.tokens[begin[:, None] + place].long()
