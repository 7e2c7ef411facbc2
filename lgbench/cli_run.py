"""`lgbench run`: its options are made from `lgbench.plan.options`, so that none is written twice."""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from lgbench.cli_style import HELP, GroupedCommand, console, examples, names_of, say
from lgbench.plan.options import Option, options
from lgbench.safe_text import for_rich

EXAMPLES = examples(
    "lgbench run --task marked_recall --preset smoke",
    'lgbench run --task omniglot --method "vanilla,slow_clock,truncated[low=512]" --seeds 3',
    "lgbench run --task omniglot --train-length 256,512 --learning-rate 1e-3,2e-3 --dry-run",
    "lgbench run --config plan.yaml --results results",
)
PANELS = ("what", "sizes", "training", "evaluation", "data", "machine")
"""Groups of options, in the order of the help."""

_TYPED = {int: "INT", float: "FLOAT", str: "TEXT", Path: "PATH", tuple[int, int]: "LOW-HIGH"}
_REPEATED = ("task", "method", "param", "backbone", "plugin")
"""Lists that are given by repeating the option, since their texts may hold commas."""
_NAMED = {"task": "TASKS", "method": "METHODS", "backbone": "BACKBONES"}
_FLAGS = {"param": ("-p", "--param"), "force": ("--force/--resume",)}


def run(**given: Any) -> None:
    """Train and evaluate methods on tasks; finished cells are skipped, interrupted ones go on.

    What is shown as INT,... takes several values, 256,1024: a grid, each point of which is run.
    """
    dry, config = given.pop("dry_run"), given.pop("config")
    from lgbench.plan.config import load_plan

    screen = console()
    runs = load_plan(config, given)
    if given["emit"] is not None:
        from lgbench.plan.slurm import slurm_script

        say(slurm_script(config, given), lines=True, nl=False)
        return
    fine = [_run_one(settings, screen, dry) for settings in runs]
    if not dry:
        for folder in dict.fromkeys(str(settings.results) for settings in runs):
            say(f"Rows are in {folder}. Next: lgbench report --results {shlex.quote(folder)}")
    if not all(fine):
        raise typer.Exit(1)


def _run_one(settings: Any, screen: Any, dry: bool) -> bool:
    """Carry out, or only show, one run; whether every cell that was asked for has numbers."""
    from dataclasses import replace

    from lgbench.launcher import choose_launcher
    from lgbench.run import prepare as runner
    from lgbench.run.events import events_of
    from lgbench.run.progress import Progress

    launcher = choose_launcher(settings)
    prepared = runner.prepare(settings, screen, dry=dry)
    if dry:
        runner.dry_run(prepared, screen)
        return not prepared.broken
    from lgbench.report.curves import load  # a dry run draws nothing
    from lgbench.report.tables import tables_of

    with events_of(settings) as sinks:
        outcome = launcher.launch(settings, prepared, Progress(screen, sinks))
    if outcome.finished + outcome.skipped_as_done:
        found = load([settings.results], {cell.key for cell in prepared.cells})
        said_before = found.missing["outcome"] == "skipped"
        for table in tables_of(replace(found, missing=found.missing[~said_before])):
            screen.print(table)
        for sentence in found.left_out:
            screen.print(for_rich("Left out:", "yellow"), for_rich(sentence), soft_wrap=True)
    if outcome.failed:
        count = for_rich(f"Cells without numbers: {len(outcome.failed)}", "red")
        screen.print(count, "; the report says why.", sep="")
    return not (outcome.failed or prepared.broken)


def parameters(declared: Iterable[Option]) -> list[inspect.Parameter]:
    """Options of the command line, group by group; each is None where it is not given."""
    file = typer.Option(help="YAML file with these options; options win.", rich_help_panel="What")
    show = typer.Option("--dry-run", help="Only show what would be run.", rich_help_panel="Machine")
    made = [("what", _parameter("config", Annotated[Path | None, file], None))]
    made += [(option.about.group, _of(option)) for option in declared]
    made += [("machine", _parameter("dry_run", Annotated[bool, show], False))]
    return [parameter for panel in PANELS for group, parameter in made if group == panel]


def _of(option: Option) -> inspect.Parameter:
    info = typer.Option(
        *_FLAGS.get(option.name, (option.flag,)),
        help=_help(option),
        metavar=_metavar(option),
        rich_help_panel=option.about.group.capitalize(),
        autocompletion=names_of(_NAMED[option.name]) if option.name in _NAMED else None,
    )
    kind: Any = option.kind if option.kind in (int, float, bool, Path) else str
    if option.many:
        kind = list[kind] if option.name in _REPEATED else str
    return _parameter(option.name, Annotated[kind | None, info], None)


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _help(option: Option) -> str:
    """What an option is, its range, and what it is when it is left out."""
    said, facts = option.about, list(option.about.range)
    if option.default is not None and option.default != () and option.kind is not bool:
        value = option.default[0] if option.many else option.default
        facts.append(f"default: {value:g}" if isinstance(value, float) else f"default: {value}")
    return said.says[0].upper() + said.says[1:] + (f" ({', '.join(facts)})." if facts else ".")


def _metavar(option: Option) -> str | None:
    if option.kind is bool:
        return None
    name = _TYPED.get(option.kind) or "|".join(get_args(option.kind))
    return f"{name},..." if option.many and option.kind is not Path else name


def register(app: typer.Typer) -> None:
    """Add `lgbench run` to the commands."""
    made = parameters(options().values())
    run.__signature__ = inspect.Signature(made)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in made}
    app.command(cls=GroupedCommand, epilog=EXAMPLES, context_settings=HELP)(run)
