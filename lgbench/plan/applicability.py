"""Say which method runs on which task, and why not, without running anything.

Imports every plugin, so only `lgbench list methods` comes here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lgbench.errors import UserError
from lgbench.intervention import missing_hooks, overridden_hooks
from lgbench.method import Method
from lgbench.models import pretrained
from lgbench.plugins.registry import BACKBONES, METHODS, TASKS, Registry
from lgbench.task import Layout, Recipe, Task

PRESETS = ("smoke", "small", "paper")
_ANY_LENGTH = 1024
"""Tokens of training for which a method is asked what it changes: hooks do not depend on them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Applicability:
    """What runs on what.

    Attributes:
        tasks: names of the columns.
        methods: names of the lines.
        backbones: method → models that it runs on, its default first; empty for one that cannot be imported.
        reasons: (method, task) → why it does not run there; None where it does.
    """

    tasks: list[str]
    methods: list[str]
    backbones: dict[str, tuple[str, ...]]
    reasons: dict[tuple[str, str], str | None]


def applicability(tasks: Registry = TASKS, methods: Registry = METHODS) -> Applicability:
    """Ask every method about every task, both with their default parameters and nothing loaded.

    A plugin that cannot be imported has that as the reason of its whole line or column.

    Args:
        tasks: registry of tasks.
        methods: registry of methods.
    """
    made_tasks, made_methods = _instances(tasks), _instances(methods)
    return Applicability(
        tasks=list(made_tasks),
        methods=list(made_methods),
        backbones={name: _runs_on(method, name) for name, method in made_methods.items()},
        reasons={
            (name, task): _reason(method, made_tasks[task])
            for name, method in made_methods.items()
            for task in made_tasks
        },
    )


def render(found: Applicability) -> list[str]:
    """Lines of a table with "yes" or the number of a note in each cell, and of the notes under it."""
    notes = {reason: f"({k})" for k, reason in enumerate(_distinct(found.reasons.values()), start=1)}
    head = ["method", *found.tasks, "backbones"]
    body = [
        [
            method,
            *(notes.get(found.reasons[method, task], "yes") for task in found.tasks),
            ", ".join(found.backbones[method]) or "?",
        ]
        for method in found.methods
    ]
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
    lines = [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in [head, *body]
    ]
    return lines + [f"{number} {reason}" for reason, number in notes.items()]


def _instances(registry: Registry) -> dict[str, Task | Method | str]:
    """Name → plugin with default parameters, or why there is none."""
    made: dict[str, Task | Method | str] = {}
    for name in registry.names():
        try:
            made[name] = registry.load(name)()
        except UserError as error:
            made[name] = str(error)
    return made


def refusal(method: Method, name: str, backbone: str, recipe: Recipe) -> str | None:
    """Why a method does not run on a backbone with this recipe, or None.

    Args:
        method: with its parameters.
        name: of the method.
        backbone: name of the backbone.
        recipe: numbers of the training.
    """
    if recipe.pretrained:
        held = pretrained.kept(recipe.pretrained).sizes.backbone
        if backbone != held:
            return f"--pretrained: holds weights of the backbone {held}, not of {backbone}"
    return _unfit(method, name, backbone, _ANY_LENGTH, recipe.d_model)


def no_task_for(method: Method, backbone: str, task: Task) -> str | None:
    """Why a task is none for this method on this backbone, whatever their parameters, or None."""
    return _wrong_layout(BACKBONES.load(backbone).layout, backbone, task) or method.unsupported(task)


def _unfit(method: Method, name: str, backbone: str, train_tokens: int, d_model: int) -> str | None:
    """What a method needs and a backbone does not have: derived from the hooks of both."""
    if method.bound and backbone != method.backbone:
        return f"method '{name}' does not run on the backbone '{backbone}'. It runs on: {method.backbone}"
    kind = BACKBONES.load(backbone)
    if foreign := method.backbone_options().keys() - kind.Params.model_fields:
        decided = ", ".join(sorted(foreign))
        return f"method '{name}' decides {decided}, which the backbone '{backbone}' does not have"
    needed = overridden_hooks(method.intervention(train_tokens, d_model))
    missing = missing_hooks(needed, kind.hooks)
    if not missing:
        return None
    return (
        f"method '{name}' does not run on the backbone '{backbone}', which has no hook "
        f"{', '.join(sorted(missing))} to change; docs/models.md says how a model offers its gates"
    )


def _wrong_layout(layout: Layout, backbone: str, task: Task) -> str | None:
    """Where queries are generated, one must not see the next."""
    if layout == "causal" or not (task.generates or task.lm_metric is not None):
        return None
    return (
        f"the queries of the backbone {backbone} see one another, which are tokens of the answer here; "
        "see decoder_transformer"
    )


def _runs_on(method: Method | str, name: str) -> tuple[str, ...]:
    """Backbones, the default first; none of a method that cannot be imported."""
    if isinstance(method, str):
        return ()
    fitting = [b for b in BACKBONES.names() if _unfit(method, name, b, _ANY_LENGTH, 16) is None]
    return tuple(sorted(fitting, key=lambda b: b != method.backbone))


def _reason(method: Method | str, task: Task | str) -> str | None:
    if isinstance(method, str) or isinstance(task, str):
        return method if isinstance(method, str) else str(task)
    if reason := no_task_for(method, method.backbone, task):
        return reason
    layout = BACKBONES.load(method.backbone).layout
    if not any(_has_recipe(task, preset, layout) for preset in PRESETS):
        return f"the task has no preset for backbones of layout {layout}"
    return None


def _has_recipe(task: Task, preset: str, layout: Layout) -> bool:
    try:
        task.recipe(preset, layout)
    except LookupError:
        return False
    return True


def _distinct(reasons: Iterable[str | None]) -> list[str]:
    return list(dict.fromkeys(reason for reason in reasons if reason))
