"""The table of `docs/fidelity.md`, made from what the plugins say (`published`)."""

from __future__ import annotations

from collections.abc import Iterable

from lgbench.plugins.registry import METHODS, TASKS, Registry
from lgbench.published import Figure

HEAD = """# Fidelity

Each figure or table of a paper that has a command here, and what remains different. `--preset paper` has the
published numbers, `protocol=as_released` the choices of published code, where it is at odds with its paper.
This page is made by `lgbench fidelity --out docs/fidelity.md` from what the plugins say; a test compares the
two, and resolves every command. `lgbench probe` looks into cells of `runs/` that were trained before.

Everywhere: items of calibration and of evaluation are disjoint, all methods have the same evaluation items,
and passkey has 20 items a depth and length where one was published. Paths of data stand for your own copy.
"""

TOP = "| figure or table | command | deviations that remain |"


def published(registries: Iterable[Registry] = (TASKS, METHODS)) -> list[Figure]:
    """Figures of all plugins that can be imported, by paper, else in the order of the plugins."""
    found = [
        figure
        for registry in registries
        for name in registry.names()
        if registry.problem(name) is None
        for figure in registry.load(name).published
    ]
    return sorted(found, key=lambda figure: figure.paper)


def render(figures: Iterable[Figure]) -> str:
    """The page, in Markdown."""
    lines, paper = [HEAD], None
    for figure in figures:
        if figure.paper != paper:
            lines += [*([""] if paper else []), f"## {figure.paper}", "", TOP, "| --- | --- | --- |"]
            paper = figure.paper
        remain = "<br>".join(figure.deviations) or "none known"
        lines.append(f"| {figure.shows} | `{figure.command}` | {remain} |")
    return "\n".join(lines) + "\n"
