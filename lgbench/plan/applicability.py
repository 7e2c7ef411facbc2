"""Say which method runs on which task, and why not, without running anything.

Imports every plugin, so only `lgbench list methods` comes here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lgbench.errors import UserError
from lgbench.method import Method
from lgbench.plugins.registry import BACKBONES, METHODS, TASKS, Registry
from lgbench.task import Layout, Task

PRESETS = ("smoke", "small", "paper")


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
        backbones={name: () if isinstance(m, str) else m.backbones for name, m in made_methods.items()},
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


def _reason(method: Method | str, task: Task | str) -> str | None:
    if isinstance(method, str) or isinstance(task, str):
        return method if isinstance(method, str) else task
    if reason := method.unsupported(task):
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
