"""Several methods at once, `decimamba+mambamodulation`: each changes its own hooks of one and the same model.

At most one of them trains in a way of its own, and one decides the lengths of the training; the others must
be content with a model trained like vanilla. They are calibrated one after another in the order of their
names, each with its predecessors in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import create_model, model_validator

from lgbench.errors import UserError
from lgbench.intervention import Composed, ScanIntervention, overridden_hooks
from lgbench.method import Method
from lgbench.plan.params import resolve
from lgbench.task import Batch, Recipe, Task

if TYPE_CHECKING:
    from lgbench.models.model import Model, TrainingAnswer

RULES = {
    "prefix_exact": "all",
    "bound": "any",
    "needs_length": "any",
    "train_eagerly": "any",
    "calibration_length": "parts",
    "drawn_lengths": "parts",
    "calibrate": "parts",
    "train_lengths": "written",
    "training_answer": "written",
    "trains_like": "written",
    "backbone": "written",
    "protocol": "written",
    "eval_only": "written",
    "calibration_free": "written",
    "parts": "written",
    "check": "written",
    "backbone_options": "written",
    "unsupported": "written",
    "assumed_length": "written",
    "first_token": "written",
    "views": "refuse",
    "intervention": "written",
    "identity": "registry",
    "version": "registry",
    "released_version": "registry",
    "published": "none",
}
"""How a combination has each member of the contract of a method.

- all, any: of the parts.
- parts: asked of each part, one after another; the combination itself refuses.
- written: below, with its reason.
- refuse: parts that change it are refused.
- none: a combination has none, since no paper publishes it.
- registry: `Registry.identity` makes it from those of the parts.
"""


def compose(named: Sequence[tuple[str, type[Method]]]) -> type[Method]:
    """The class of methods that combine these; its parameters are called `PART.PARAMETER`.

    Raises:
        UserError: the same method twice.
    """
    names = [name for name, _ in named]
    if len({*names}) < len(names):
        raise UserError(f"method '{'+'.join(names)}' has the same part twice")

    def validate(cls: type, given: Any) -> dict[str, Any]:
        values = dict(given)
        validated = {}
        for name, part in named:
            own = [key for key in values if key.startswith(f"{name}.")]
            params = resolve(part, {k.partition(".")[2]: values.pop(k) for k in own}, "method", name)
            validated |= {f"{name}.{key}": getattr(params, key) for key in type(params).model_fields}
        if values:
            unknown, combination = next(iter(values)), "+".join(names)
            raise UserError(f"method '{combination}' has no part with the parameter '{unknown}'")
        return validated

    fields = {
        f"{name}.{key}": (Any, field.get_default(call_default_factory=True))
        for name, part in named
        for key, field in part.Params.model_fields.items()
    }
    params = create_model(
        "Params",
        __base__=Method.Params,
        __validators__={"validate_parts": model_validator(mode="before")(classmethod(validate))},
        **fields,
    )
    return type("Combined", (_Combined,), {"Params": params, "named": tuple(named)})


def combine(parts: Sequence[tuple[str, Method]]) -> tuple[str, Method]:
    """Name and method that train as these parts do together, in the order of their names."""
    parts = sorted(parts, key=lambda part: part[0])
    kind = compose([(name, type(part)) for name, part in parts])
    given = {f"{name}.{key}": value for name, part in parts for key, value in dict(part.params).items()}
    return "+".join(name for name, _ in parts), kind(kind.Params.model_validate(given))


class _Combined(Method):
    named: tuple[tuple[str, type[Method]], ...]

    def __init__(self, params: Any = None) -> None:
        super().__init__(params)
        self._parts = []
        for name, part in self.named:
            own = {key: getattr(self.params, f"{name}.{key}") for key in part.Params.model_fields}
            self._parts.append((name, part(part.Params.model_validate(own))))
        methods = [part for _, part in self._parts]
        self.backbone = next((part.backbone for part in methods if part.bound), methods[0].backbone)
        released = any(part.protocol == "as_released" for part in methods)
        self.protocol = "as_released" if released else "clean"
        for name, part in self._parts:
            if type(part).views is not Method.views:
                self._refuse(f"{name} reads a context several times, and does so alone")
        self._check_training()
        self.backbone_options()

    @property
    def eval_only(self) -> frozenset[str]:
        """Those of the parts, as they are called here."""
        return frozenset(f"{name}.{key}" for name, part in self._parts for key in part.eval_only)

    @property
    def calibration_free(self) -> frozenset[str]:
        """Those of the parts, as they are called here."""
        return frozenset(f"{name}.{key}" for name, part in self._parts for key in part.calibration_free)

    @property
    def trains_like(self) -> str | None:
        """None where a part has a training of its own, else what all parts train like."""
        found = [part.trains_like for _, part in self._parts]
        return None if None in found else found[0]

    def parts(self, name: str) -> list[tuple[str, Method]]:
        """What it is made of."""
        return self._parts

    def check(self, recipe: Recipe, backbone: str) -> None:
        """Refuse what a part refuses, and parts that stand in each other's way."""
        for _, part in self._parts:
            part.check(recipe, backbone)
        self.intervention(recipe.train_length, recipe.d_model)

    def train_lengths(self, train_length: int) -> tuple[int, int]:
        """Of the part that decides them."""
        deciding = [part for _, part in self._parts if _decides_lengths(part)]
        return (deciding[0] if deciding else super()).train_lengths(train_length)

    def training_answer(self, model: Model, batch: Batch, **options: Any) -> TrainingAnswer:
        """Of the part that trains in a way of its own."""
        own = [part for _, part in self._parts if type(part).training_answer is not Method.training_answer]
        return (own[0] if own else super()).training_answer(model, batch, **options)

    def backbone_options(self) -> dict[str, Any]:
        """What the parts decide.

        Raises:
            UserError: two parts decide one parameter differently.
        """
        decided: dict[str, tuple[str, Any]] = {}
        for name, part in self._parts:
            for key, value in part.backbone_options().items():
                first, known = decided.setdefault(key, (name, value))
                if known != value:
                    self._refuse(f"{first} decides {key}={known} of the backbone, {name} {key}={value}")
        return {key: value for key, (_, value) in decided.items()}

    def unsupported(self, task: Task) -> str | None:
        """The first reason of a part."""
        return next((reason for _, part in self._parts if (reason := part.unsupported(task))), None)

    def assumed_length(self, length: int, train_length: int) -> int | None:
        """Of the last part that assumes one, given what it is told: behind a window, the window's length.

        The window itself knows the whole length, and counts where no other part assumes one.
        """
        told = length - self.first_token(length, train_length)
        cutting = [part for _, part in self._parts if part.first_token(length, train_length)]
        others = [part for _, part in self._parts if part not in cutting]
        found = [part.assumed_length(length, train_length) for part in cutting]
        found += [part.assumed_length(told, train_length) for part in others]
        return next((n for n in reversed(found) if n is not None), None)

    def first_token(self, length: int, train_length: int) -> int:
        """Of the part that reads least."""
        return max(part.first_token(length, train_length) for _, part in self._parts)

    def intervention(self, train_length: int, d_model: int) -> ScanIntervention:
        """All changes at once.

        Raises:
            UserError: two parts override the same hook, or one that looks at context and queries together is
                combined with one that leaves queries alone.
        """
        made = [(name, part.intervention(train_length, d_model)) for name, part in self._parts]
        owners: dict[str, str] = {}
        for name, intervention in made:
            for hook in sorted(overridden_hooks(intervention) - {"record"}):
                if hook in owners:
                    self._refuse(f"both {owners[hook]} and {name} change '{hook}'; only one method can")
                owners[hook] = name
        passive = [
            name for name, one in made if overridden_hooks(one) - {"keep"} and not one.apply_in_decode
        ]  # what is decoded is protected, so a `keep` alone has nothing to leave out there
        if "keep" in owners and passive:
            self._refuse(
                f"{owners['keep']} takes context and queries in one piece, so {passive[0]} cannot leave "
                "queries alone; set its apply_in_decode=true, or protocol=clean"
            )
        changing = [intervention for _, intervention in made if type(intervention) is not ScanIntervention]
        return changing[0] if len(changing) == 1 else Composed([intervention for _, intervention in made])

    def _check_training(self) -> None:
        first_name, first = self._parts[0]
        for name, part in self._parts:
            if (part.bound or first.bound) and part.backbone != first.backbone:
                self._refuse(f"{first_name} runs on the backbone {first.backbone}, {name} on {part.backbone}")
        trained = [(name, part) for name, part in self._parts if part.trains_like is None]
        ranges = [name for name, part in trained if _decides_lengths(part)]
        others = [name for name, part in trained if not _decides_lengths(part)]
        for own in (ranges, others):
            if len(own) > 1:
                self._refuse(f"{own[0]} and {own[1]} each need a training of their own")
        alike = {part.trains_like for _, part in self._parts} - {None}
        if len(alike) > 1:
            self._refuse(f"the parts need different trainings: {', '.join(sorted(alike))}")

    def _refuse(self, why: str) -> None:
        raise UserError(f"method '{'+'.join(name for name, _ in self.named)}' cannot be: {why}")


def _member(name: str, rule: str) -> property:
    """A member of a combination that follows from a rule alone."""

    def value(self: _Combined) -> Any:
        if rule == "parts":
            raise TypeError(f"{name} is asked of the parts of a combination, see `Method.parts`")
        found = [getattr(part, name) for _, part in self._parts]
        return all(found) if rule == "all" else any(found)

    return property(value)


for _name, _rule in RULES.items():
    if _rule in ("all", "any", "parts"):
        setattr(_Combined, _name, _member(_name, _rule))


def _decides_lengths(part: Method) -> bool:
    return type(part).train_lengths is not Method.train_lengths
