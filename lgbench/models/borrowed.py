"""What the backbones of other libraries have in common: sizes by their names there, caches, and a gate.

A library's cache may be wrong, or change in place. So a cache is taken apart into tensors, which are copied
before each piece; and before anything is streamed, pieces are compared with the whole. Where they differ, a
model is read whole: its state is the sequence so far, which is exact and slow, and the model says so.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from pydantic import BaseModel, Field, create_model
from torch import Tensor, nn

from lgbench.backbone import Advance, Backbone, chosen_rows, first

TOLERANCE = 2e-5
"""Largest difference between pieces and whole that is rounding, relative to the largest number."""

_PIECES = (1, 17, 2, 21)
"""Lengths that are read one after another; some libraries are right for single tokens only."""

_TYPES = {"int": int, "float": float, "str": str, "bool": bool, "None": None, "NoneType": None}


class Borrowed(Backbone):
    """Base of backbones whose `step` uses a cache of somebody else's, behind a gate.

    Attributes:
        library: what computes it, for rows.
    """

    library: ClassVar[str]
    widest: ClassVar[torch.dtype] = torch.float32

    def build(self, d_model: int, num_layers: int) -> None:
        """Make the layers; whether they can be streamed is asked with the first piece."""
        super().build(d_model, num_layers)
        self._d_model, self._asked = d_model, False

    def advance(self, tokens: Tensor, **more: Any) -> Advance:
        """Process a piece of a sequence; arguments as in `Backbone.advance`."""
        self._ask(tokens.device)
        return super().advance(tokens, **more)

    def backend_name(self, tokens: Tensor, hooks: frozenset[str]) -> str:
        """The library, and whether every piece is read with all before it; stored in rows."""
        self._ask(tokens.device)
        return self.library if self.step is not None else f"{self.library}, read whole"

    def _ask(self, device: torch.device) -> None:
        """Compare pieces with the whole, once; a model that is wrong loses its `step`."""
        if self._asked or self.step is None:
            return
        self._asked = True
        training = self.training
        self.eval()
        with torch.no_grad():
            why = split_problem(self._mixers()[0], self.step, self._mixer_of, self._d_model, device)
        self.train(training)
        if why:
            self.step = None
            self.notice = f"{why}. So it is read whole: each piece again with all before it, exact and slow"

    @staticmethod
    def _mixer_of(block: nn.Module) -> nn.Module:
        return getattr(block, "mixer", block)


def split_problem(
    block: nn.Module,
    step: Callable[..., tuple[Tensor, Any]],
    mixer_of: Callable[[nn.Module], nn.Module],
    d_model: int,
    device: torch.device,
) -> str:
    """Why a module read in pieces is not what it is whole; empty if it is.

    Sequences are continued in pieces, from a state that was continued before, and in another order.
    """
    mixer = mixer_of(block)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, sum(_PIECES), d_model, generator=generator).to(device)
    whole = first(mixer(x))
    allowed = TOLERANCE * max(1.0, whole.abs().max().item())
    try:
        rows, state, pieces = [], None, x.split(_PIECES, dim=1)
        for piece in pieces:
            if state is not None:
                step(mixer, torch.flip(piece, dims=[0, 1]), state)  # must leave the state as it is
            y, after = step(mixer, piece, state)
            rows.append(y)
            state, before = after, state
        turned = torch.tensor([1, 0], device=device)
        swapped, _ = step(mixer, pieces[-1][turned], chosen_rows(before, turned))
        off = max(_difference(torch.cat(rows, dim=1), whole), _difference(swapped[turned], rows[-1]))
    except Exception as error:  # a library may fail in any way
        return f"it does not continue several tokens ({type(error).__name__}: {_line(error)})"
    return "" if off <= allowed else f"pieces differ from the whole by {off:.1e}"


def taken_apart(value: Any) -> Any:
    """A cache as dictionaries, lists and tuples of tensors, so that sequences of a batch can be chosen.

    Raises:
        TypeError: it holds something that is neither.
    """
    if isinstance(value, Tensor):
        return value if value.dim() else _Scalar(value.item(), value.dtype, value.device)
    if isinstance(value, dict):
        return {name: taken_apart(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(taken_apart(one) for one in value)
    if value is None or isinstance(value, bool | int | float | str | type | torch.dtype | torch.device):
        return value
    if hasattr(value, "__dict__") and not callable(value):
        return {_KIND: type(value), **taken_apart(vars(value))}
    raise TypeError(f"its cache holds a {type(value).__name__}")


def put_together(value: Any) -> Any:
    """A fresh cache from what `taken_apart` gave; every tensor is a copy."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, _Scalar):
        return torch.tensor(value.value, dtype=value.dtype, device=value.device)
    if isinstance(value, dict):
        found = {name: put_together(one) for name, one in value.items() if name != _KIND}
        if _KIND not in value:
            return found
        made = value[_KIND].__new__(value[_KIND])
        made.__dict__.update(found)
        return made
    if isinstance(value, list | tuple):
        return type(value)(put_together(one) for one in value)
    return value


def params_of(name: str, defaults: Mapping[str, Any], base: type[BaseModel], source: str) -> type[BaseModel]:
    """A `Params` with a field for each number, word or flag among these defaults.

    Args:
        name: of the class.
        defaults: values by name; those of other types are left out.
        base: what it adds to.
        source: where the fields are described.
    """
    fields: dict[str, Any] = {}
    for key, value in defaults.items():
        typed = _Typed(type(value), value) if isinstance(value, bool | int | float | str) else value
        if isinstance(typed, _Typed):
            fields[key] = (typed.kind, Field(typed.default, description=f"see {source}"))
    return create_model(name, __base__=base, **fields)


def arguments_of(function: Callable[..., Any], without: frozenset[str]) -> dict[str, Any]:
    """Arguments with a default and a plain type, for `params_of`."""
    found: dict[str, Any] = {}
    for name, argument in inspect.signature(function).parameters.items():
        if name in without or argument.default is argument.empty:
            continue
        words = [
            word.strip()
            for word in str(getattr(argument.annotation, "__name__", argument.annotation)).split("|")
        ]
        if not all(word in _TYPES for word in words):
            if not isinstance(argument.default, bool | int | float | str):
                continue
            words = [type(argument.default).__name__]
        kinds = [_TYPES[word] for word in words]
        if argument.default is None and None not in kinds:
            kinds.append(None)
        kind = kinds[0]
        for other in kinds[1:]:
            kind = kind | other
        found[name] = _Typed(kind, argument.default)
    return found


_KIND = "class of the cache"


class _Scalar(NamedTuple):
    """A tensor without dimensions, which belongs to no sequence of the batch."""

    value: Any
    dtype: torch.dtype
    device: torch.device


class _Typed(NamedTuple):
    kind: Any
    default: Any


def _difference(one: Tensor, other: Tensor) -> float:
    return (one - other).abs().max().item()


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:120]
