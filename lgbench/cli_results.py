"""`lgbench results`: look after results folders. Nothing heavy is imported before a command runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from lgbench.cli_style import say
from lgbench.errors import UserError
from lgbench.safe_text import plain

results_app = typer.Typer(no_args_is_help=True, help="Verify results folders, or bring them up to date.")

Folders = Annotated[
    list[Path] | None,
    typer.Option("--results", help="Results folder (default: runs); may be given several times."),
]


@results_app.command()
def verify(results: Folders = None) -> None:
    """Read every file and compare it with its checksum; exit status 1 if something is damaged."""
    from lgbench.store.verify import KINDS
    from lgbench.store.verify import verify as verify_folder

    findings = [found for root in _existing(results) for found in verify_folder(root)]
    say(f"{'':<18}{'files':>7}{'no checksum':>13}{'damaged':>9}")
    for kind in KINDS:
        mine = [found for found in findings if found.kind == kind]
        unsealed = sum(not found.has_checksum for found in mine)
        bad = sum(bool(found.problem) for found in mine)
        say(f"{kind:<18}{len(mine):>7}{unsealed:>13}{bad:>9}")
    damaged = [found for found in findings if found.problem]
    for found in damaged:
        say(f"{found.path}: {found.problem}")
    if damaged:
        raise typer.Exit(1)


@results_app.command()
def migrate(
    results: Folders = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would change.")] = False,
) -> None:
    """Write rows in the current schema, and rename cells and trainings to the keys of today."""
    from lgbench.plan.rekey import new_keys
    from lgbench.store.rekey import migrate as migrate_folder

    would = "would be " if dry_run else ""
    for root in _existing(results):
        done = migrate_folder(root, new_keys, describe=_facts_of_the_task, dry_run=dry_run)
        renamed = sum(old != new for old, new in done.written.items())
        say(
            f"{plain(root)}: {len(done.written)} files of rows {would}written, {renamed} of them under a new "
            f"key, {len(done.unchanged)} unchanged; {len(done.moved)} other files and folders {would}renamed"
        )
        for path in done.left:
            say(f"left as it is, because its new name is taken: {path}")
        for path, reason in done.unreadable.items():
            say(f"left as it is, because it cannot be read: {path}: {reason}")


def _existing(results: list[Path] | None) -> list[Path]:
    roots = results or [Path("runs")]
    for root in roots:
        if not root.is_dir():
            raise UserError(f"no results folder '{root}'. Make one with: lgbench run --results {root}")
    return roots


def _facts_of_the_task(row: Mapping[str, Any]) -> dict[str, Any]:
    """What the task of a row says today and older rows lack; nothing of a task that is not installed."""
    from lgbench.plugins.registry import TASKS

    try:
        task = TASKS.load(row["task"])
    except UserError:
        return {}
    known = {name: getattr(task, name, None) for name in ("horizon", "learned", "context_means")}
    return {name: value for name, value in known.items() if value is not None}
