"""Read a context the way a method asks for: behind its window, and in pieces wherever that is exact.

Evaluation, calibration and the gallery all read through `ContextReader`, so that a method sees the same
tokens in each.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from lgbench.intervention import overridden_hooks
from lgbench.method import Method
from lgbench.models.model import Model
from lgbench.task import Batch, Tensors

PIECE = 4096
"""Context tokens of each sequence that are embedded and scanned at a time, at least."""

TOGETHER = 2**15
"""Tokens of a batch that are read at a time, at least: a few long sequences go in longer pieces."""

Tokens = Callable[[int, int], Tensors]
"""Gives the context tokens from one index up to another, exclusive."""


class Window(NamedTuple):
    """The part of a context that a method reads."""

    first: int
    """First context token that is read; the model never sees earlier ones."""
    announced: int
    """Length in tokens that is announced to the method."""


def piece_of(batch: int) -> int:
    """Tokens of each of `batch` sequences that are read at a time."""
    return max(PIECE, TOGETHER // batch)


def can_stream(model: Model) -> bool:
    """Whether a context can be read in pieces: it is causal, and no method chooses among all tokens."""
    return model.causal and "keep" not in overridden_hooks(model.intervention)


class ContextReader:
    """One model under one method on one task.

    Args:
        model: trained.
        method: decides which part of a context is read.
        context_tokens: of the task, see `Task.context_tokens`.
        train_length: of the recipe, in the task's unit.
    """

    def __init__(
        self, model: Model, method: Method, context_tokens: Callable[[int], int], train_length: int
    ) -> None:
        self.model, self._method, self._context_tokens = model, method, context_tokens
        self._train_tokens = context_tokens(train_length)

    @property
    def streamed(self) -> bool:
        """Whether contexts are read in pieces."""
        return can_stream(self.model)

    def window(self, extent: int, num_tokens: int) -> Window:
        """Return what is read of contexts of `extent`, in the task's unit, that have `num_tokens` tokens.

        Where items of an extent differ in tokens, the announced length is the nominal one: what a method does
        to an item must not depend on the others, and has to end where the training lengths end.
        """
        nominal = self._context_tokens(extent)
        skipped = self._method.first_token(nominal, self._train_tokens)
        announced = nominal - skipped
        return Window(max(0, num_tokens - announced) if skipped else 0, announced)

    def views(self, num_tokens: int) -> tuple[Tensor, ...]:
        """Return the parts of a context of `num_tokens` tokens that are read alone; see `Method.views`."""
        return self._method.views(num_tokens, self._train_tokens)

    def averaged(
        self, tokens: Tokens, queries: Tensors, targets: Tensor, views: tuple[Tensor, ...]
    ) -> Tensor:
        """Return the mean of the predictions after each of the views, in the shape of `targets`."""
        found, sound = [], None
        for view in views:
            part, size = _chosen(tokens, view), len(view)
            found.append(self.answer(partial(_part_of, part), queries, targets, Window(0, size), size))
            sound = self.model.sound if sound is None else sound & self.model.sound
        self.model.sound = sound
        return torch.stack(found).mean(dim=0)

    def stream(
        self, tokens: Tokens, window: Window, stop: int, state: list | None = None, step: int | None = None
    ) -> list | None:
        """Return the state after the tokens of a window up to `stop`.

        Args:
            tokens: gives a part of the context.
            window: see `window`.
            stop: end of what is read, exclusive.
            state: of what was read before `window.first`; None at the start of a sequence.
            step: tokens of a sequence read at a time; None is `PIECE`.
        """
        step = step or PIECE
        for start in range(window.first, stop, step):
            piece = tokens(start, min(stop, start + step))
            state = self.model.read_context(piece, state, window.announced)
        return state

    def answer(
        self,
        tokens: Tokens,
        queries: Tensors,
        targets: Tensor,
        window: Window,
        stop: int,
        step: int | None = None,
    ) -> Tensor:
        """Return predictions in the shape of `targets` after the context up to `stop`; see `stream`."""
        if self.streamed:
            state = self.stream(tokens, window, stop, step=step)
            return self.model.answer_from(state, queries, targets.shape[1], window.announced)
        read = Batch(tokens(window.first, stop), queries, targets)
        return self.model.answer(read, mode="score", length=window.announced)


def _chosen(tokens: Tokens, view: Tensor) -> Tensors:
    """The tokens at ascending indices."""
    pieces = []
    for start in range(0, int(view[-1]) + 1, PIECE):
        inside = view[(view >= start) & (view < start + PIECE)] - start
        if len(inside):
            piece = tokens(start, start + int(inside[-1]) + 1)
            pieces.append({name: values[:, inside.to(values.device)] for name, values in piece.items()})
    return {name: torch.cat([piece[name] for piece in pieces], dim=1) for name in pieces[0]}


def _part_of(part: Tensors, start: int, stop: int) -> Tensors:
    return {name: values[:, start:stop] for name, values in part.items()}
