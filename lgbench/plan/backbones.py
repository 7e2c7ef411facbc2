"""Which parameters a backbone has in a run: asked for, decided by the method, or suggested by the task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from lgbench.errors import UserError
from lgbench.method import Method
from lgbench.plan.keys import changed_params
from lgbench.plan.params import describe_params, resolve
from lgbench.plan.text import write_value
from lgbench.plugins.registry import BACKBONES
from lgbench.recipe import Recipe


class BackboneChoice(NamedTuple):
    """A backbone with its parameters."""

    name: str
    params: str
    """Canonical JSON of those that differ from their defaults."""
    label: str
    """The name, and in brackets what was asked for; `d_state` has a column and an axis of its own."""


def choose(name: str, asked: Mapping[str, Any], recipe: Recipe, method: Method) -> BackboneChoice:
    """Decide the parameters of a backbone.

    Args:
        name: of the backbone.
        asked: parameters that the user gave, without grids.
        recipe: its `sizes` are suggestions, taken where the backbone has them and nobody says otherwise.
        method: it may decide some itself.

    Raises:
        UserError: a parameter that the backbone does not have, or not this value of it; or the method or the
            checkpoint decides it.
    """
    name = BACKBONES.canonical(name)
    kind = BACKBONES.load(name)
    known = kind.Params.model_fields
    if "d_state" in asked and "d_state" not in known:
        takes = ", ".join(info.name for info in describe_params(kind)) or "none"
        raise UserError(
            f"--d-state {asked['d_state']}: backbone '{name}' has no such size. It takes: {takes}"
        )
    decided = {key: value for key, value in method.backbone_options().items() if key in known}
    for key in asked:
        if recipe.pretrained:
            raise UserError(
                f"--backbone {name}[{key}=...] has no effect with --pretrained, which has its own"
            )
        if key in decided and asked[key] != decided[key]:
            raise UserError(
                f"--backbone {name}[{key}={write_value(asked[key])}]: the method decides {key}, "
                f"{write_value(decided[key])} here; leave it out"
            )
    suggested = {key: value for key, value in recipe.sizes if key in known}
    params = resolve(kind, suggested | dict(asked) | decided, "backbone", name)
    shown = ",".join(f"{key}={write_value(value)}" for key, value in asked.items() if key != "d_state")
    return BackboneChoice(name, changed_params(params), f"{name}[{shown}]" if shown else name)
