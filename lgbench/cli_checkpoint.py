"""`lgbench export-checkpoint`: hand a trained model to other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export_checkpoint(
    cell: Annotated[str, typer.Argument(help="Key of a cell of a language task, or its beginning.")],
    out: Annotated[Path, typer.Option(help="Folder to write; it must be empty or not exist.")],
    results: Annotated[Path, typer.Option(help="Results folder that has the cell.")] = Path("runs"),
    tokenizer: Annotated[str | None, typer.Option(help="That of the training, if it was given.")] = None,
    data: Annotated[str | None, typer.Option(help="Those of the training, if they were given.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder with data files.")] = None,
) -> None:
    """Write a trained Mamba or Mamba-2 in the Hugging Face format, with its tokenizer."""
    from lgbench.export import export

    asked = {name: value for name, value in {"tokenizer": tokenizer, "data": data}.items() if value}
    for line in export(cell, out, results, data_dir, **asked):
        typer.echo(line)
