"""`lgbench fidelity`: which figure of which paper has which command, and what remains different."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lgbench.cli_style import say


def fidelity(
    out: Annotated[Path | None, typer.Option(help="Markdown file to write; printed if left out.")] = None,
) -> None:
    """Figures and tables of papers, the command for each, and the deviations that remain."""
    from lgbench.plan.fidelity import published, render
    from lgbench.store.files import atomic_file

    page = render(published())
    if out is None:
        say(page, lines=True, nl=False)
        return
    with atomic_file(out) as temporary:
        temporary.write_text(page, encoding="utf-8")
    say(f"Fidelity: {out}")
