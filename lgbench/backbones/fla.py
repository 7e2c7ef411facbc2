"""Any layer of flash-linear-attention, by its name there: "fla:GatedDeltaNet[num_heads=4]".

Norm and residual are ours, the mixer is the library's. Each mixer has a cache of its own, so each is made as
its layer 0. The kernels need a GPU. Source: Yang and Zhang, github.com/fla-org/flash-linear-attention; papers
are named in the layers' docstrings.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import importlib.util
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lgbench.backbone import Backbone, first
from lgbench.models.borrowed import Borrowed, arguments_of, params_of, put_together, taken_apart

REQUIRES = ("fla=flash-linear-attention",)

EXAMPLE = "fla:GatedDeltaNet"
OURS = frozenset({"self", "hidden_size", "layer_idx"})
"""Arguments of a layer that lgbench decides."""


class Fla(Borrowed):
    """A family: `member` gives the backbone of one layer."""

    library: ClassVar[str] = "fla"
    layer: ClassVar[type[nn.Module]]

    @classmethod
    def member(cls, name: str) -> type[Backbone]:
        """The backbone of a layer of `fla.layers`, with the arguments of its constructor as parameters.

        Raises:
            ValueError: there is no such layer.
        """
        layers = importlib.import_module("fla.layers")
        kinds = {
            n: kind
            for n, kind in vars(layers).items()
            if isinstance(kind, type) and issubclass(kind, nn.Module)
        }
        if name not in kinds:
            near = difflib.get_close_matches(name, kinds) or sorted(kinds)
            wanted = f"has no layer '{name}'" if name else "is a family, name one of its layers"
            raise ValueError(f"{wanted}, such as {EXAMPLE}. There are: {', '.join(near)}")
        layer = kinds[name]
        arguments = arguments_of(layer.__init__, OURS)
        params = params_of(f"{name}Params", arguments, Backbone.Params, f"fla.layers.{name}")
        content = f"{name} {_version()}"
        return type(name, (cls,), {"layer": layer, "Params": params, "content": content})

    @classmethod
    def check_backend(cls, params: Any, scan_backend: str, device: torch.device) -> None:
        """Refuse a device on which its kernels do not run.

        Raises:
            ValueError: it is no GPU.
        """
        if device.type == "cpu" and _has_kernels():
            raise ValueError("the kernels of flash-linear-attention need a GPU; run it with --device cuda")

    def mixer(self, d_model: int, layer: int) -> nn.Module:
        """The library's layer; what it refuses about sizes is a ValueError."""
        try:
            return self.layer(hidden_size=d_model, layer_idx=0, **self.params.model_dump())
        except (AssertionError, TypeError, RuntimeError) as error:
            raise ValueError(f"fla's {self.layer.__name__} refuses d_model {d_model}: {error}") from error

    def step(self, mixer: nn.Module, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Continue from a cache that was taken apart; the library may change its copy in place."""
        cache = put_together(state) if state is not None else _cache()
        found = mixer(x, past_key_values=cache, use_cache=True)
        return first(found), taken_apart(cache)


def _cache() -> Any:
    return importlib.import_module("fla.models.utils").Cache()


def _has_kernels() -> bool:
    try:
        return importlib.util.find_spec("fla.ops") is not None
    except (ValueError, ModuleNotFoundError):
        return False


def _version() -> str:
    """Of the distributions that give the package."""
    names = importlib.metadata.packages_distributions().get("fla", [])
    return " ".join(f"{name} {importlib.metadata.version(name)}" for name in sorted(set(names)))
