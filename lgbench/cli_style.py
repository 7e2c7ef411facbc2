"""How the help of `lgbench` looks, and where tables and progress go. Nothing heavy is imported at once."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from lgbench.errors import UserError
from lgbench.interrupt import GOES_ON
from lgbench.safe_text import plain, plain_console

HELP = {"help_option_names": ["-h", "--help"]}
"""Settings of every command."""


class GroupedCommand(TyperCommand):
    """A command whose options stand in the help under the title of their panel, without the cost of rich."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                title = getattr(parameter, "rich_help_panel", None) or "Options"
                sections.setdefault(title, []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


class Commands(TyperGroup):
    """The one place where a `UserError` becomes a line and an exit status."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            say(f"lgbench: {error}", err=True)
            raise SystemExit(2) from None
        except SystemExit as error:  # no command of ours does that
            say(f"lgbench: the code of a plugin ended the command by sys.exit({error.code!r})", err=True)
            raise SystemExit(1) from error
        except KeyboardInterrupt as error:
            typer.echo(f"\nlgbench: interrupted. {GOES_ON}", err=True)
            raise SystemExit(getattr(error, "status", 130)) from None


def say(text: object, *, lines: bool = False, err: bool = False, nl: bool = True) -> None:
    """Print a line, or with `lines` several, in which text of others does nothing to the terminal."""
    typer.echo(plain(text, lines=lines), err=err, nl=nl)


def examples(*lines: str) -> str:
    """The end of a help text: commands to copy, each on a line of its own."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def names_of(kind: str) -> Callable[[str], list[str]]:
    """Completion by the names of plugins: "TASKS", "METHODS" or "BACKBONES" of the registry."""

    def complete(incomplete: str) -> list[str]:
        from lgbench.plugins import registry

        return [name for name in getattr(registry, kind).names() if name.startswith(incomplete)]

    return complete


def console() -> Any:
    """Where tables and progress go; wide where nobody's window decides, so that a log shows whole cells."""
    narrow = os.environ.get("COLUMNS", "").isdigit() and int(os.environ["COLUMNS"]) > 0
    return plain_console() if sys.stdout.isatty() or narrow else plain_console(width=160)
