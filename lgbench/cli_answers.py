"""`lgbench compare`, `regress`, `export` and `submit`. Nothing heavy is imported before a command runs."""

from __future__ import annotations

from typing import Annotated

import typer

from lgbench.console import make_console


def add_answers(app: typer.Typer) -> None:
    """Register the commands of this file."""
    for command in (compare,):
        app.command()(command)


def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="FOLDER, COMMIT:FOLDER or FOLDER@COLUMN=VALUE.")],
    second: Annotated[str, typer.Argument(metavar="B", help="The same; differences are B − A.")],
    all_: Annotated[bool, typer.Option("--all", help="Also print what did not change beyond noise.")] = False,
) -> None:
    """What changed from A to B beyond the noise of seeds and items, paired; what has no partner is named.

    A and B: results, main:results (at a git commit), "results@method=vanilla,seed=0|1|2" (a selection).
    """
    from lgbench.answers.compare import compare as compare_selections
    from lgbench.answers.compare import render
    from lgbench.answers.selection import read_selection

    comparison = compare_selections(read_selection(first), read_selection(second))
    console = make_console()
    for part in render(comparison, everything=all_):
        console.print(part, soft_wrap=isinstance(part, str), markup=False, highlight=False)
