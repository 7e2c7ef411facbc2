"""`lgbench fill`: numbers of a text from rows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lgbench.cli_style import examples, say

EXAMPLES = examples(
    "lgbench fill paper.tex.jinja --results results --out paper.tex",
    "lgbench fill abstract.md.jinja --out abstract.md",
)


def fill(
    template: Annotated[
        Path, typer.Argument(help="Text in which {{ score(...) }} and the like stand for numbers.")
    ],
    results: Annotated[
        list[Path] | None,
        typer.Option("--results", help="Results folder (default: runs); may be given several times."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File to write (default: the screen).")] = None,
) -> None:
    """Fill a text, such as a paper, with numbers from the store.

    score(task=..., method=..., length=...) gives "0.285 ± 0.012 (3 seeds)"; see docs/pandas.md.
    A selection that fits no rows or several series is an error.
    """
    from lgbench.report.fill import fill_file
    from lgbench.store import atomic_file

    text = fill_file(template, results or [Path("runs")])
    if out is None:
        say(text, lines=True, nl=False)
        return
    with atomic_file(out) as temporary:
        temporary.write_text(text, encoding="utf-8")
    say(f"Written: {out}")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=EXAMPLES)(fill)
