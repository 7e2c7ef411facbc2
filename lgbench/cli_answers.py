"""`lgbench compare`, `regress`, `export` and `submit`. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lgbench.cli_style import console as make_console
from lgbench.cli_style import say
from lgbench.errors import UserError
from lgbench.safe_text import for_rich

if TYPE_CHECKING:
    from lgbench.answers.baseline import Baseline
    from lgbench.answers.regress import Check, Measured


def add_answers(app: typer.Typer) -> None:
    """Register the commands of this file."""
    for command in (compare, regress, export, submit):
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
        if isinstance(part, str):
            console.print(for_rich(part, lines=True), soft_wrap=True)
        else:
            console.print(part)


def regress(
    baseline: Annotated[Path, typer.Option(help="YAML file with the plan and what it gave; see the docs.")],
    results: Annotated[
        Path | None, typer.Option(help="Read rows of the plan from this folder; nothing is run or timed.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    update: Annotated[
        bool, typer.Option("--update", help="Renew the baseline and say what moved; judge nothing.")
    ] = False,
    junit: Annotated[Path | None, typer.Option(help="JUnit file to write.")] = None,
    summary: Annotated[
        Path | None,
        typer.Option(envvar="GITHUB_STEP_SUMMARY", help="Markdown file to append a summary to."),
    ] = None,
) -> None:
    """Run a plan and compare it with its baseline: a gate for CI.

    Exit status: 0 no regression, 1 a regression, 2 bad input, 3 cells without numbers.
    """
    from lgbench.answers import regress as gate
    from lgbench.answers import verdicts
    from lgbench.answers.baseline import Device, read_baseline

    before = read_baseline(baseline)
    measured = _measured(before, results, device, update)
    section = before.devices.get(measured.device)
    if section is None and not update:
        raise UserError(
            f"--baseline {baseline} has no numbers for {measured.device}; "
            f"add them with: lgbench regress --baseline {baseline} --device {measured.device} --update"
        )
    checks = gate.judge(section or Device(), measured, before.golden)
    title = f"{before.name} on {measured.device}"
    console = make_console()
    console.print(verdicts.table(title, checks))
    if summary is not None:
        verdicts.append_summary(summary, title, checks)
    if junit is not None:
        verdicts.write_junit(junit, before.name, checks)
    if update and not measured.failed:
        _renew(baseline, before, measured, checks)
        return
    say(verdicts.sentence(checks))
    if measured.failed and update:
        say(f"{baseline} stays as it is: cells have no numbers.")
    raise typer.Exit(gate.exit_status(checks))


def export(
    kind: Annotated[str, typer.Option("--format", help="csv, latex or parquet.")],
    out: Annotated[Path, typer.Option(help="File to write.")],
    results: Annotated[
        list[Path] | None,
        typer.Option("--results", help="Results folder (default: runs); may be given several times."),
    ] = None,
) -> None:
    """Rows as one CSV or parquet file, or curves as LaTeX tables with booktabs."""
    from lgbench.answers.export import export as export_rows

    left_out = export_rows(results or [Path("runs")], kind, out)
    for sentence in left_out:
        say(f"Left out: {sentence}", err=True)
    say(f"Written: {out}")


def submit(
    file: Annotated[Path, typer.Argument(help="File of lgbench export --format parquet, or a folder.")],
    into: Annotated[Path | None, typer.Option(help="Results folder that accepted rows are put into.")] = None,
    results: Annotated[Path, typer.Option(help="Our rows, to compare with.")] = Path("results"),
    plugin: Annotated[list[Path] | None, typer.Option(help="Python file with a plugin of the rows.")] = None,
) -> None:
    """Whether somebody's rows may stand beside ours, cell by cell; exit status 1 if one is refused."""
    from lgbench.answers import submit as submissions
    from lgbench.plan.rekey import new_keys
    from lgbench.plugins import registry

    for path in plugin or []:
        registry.add_file(path)
    found = submissions.examine(file, into or results, new_keys)
    for verdict in found.verdicts:
        word = "refused" if verdict.problems else "known" if verdict.is_known else "accepted"
        say(f"{word:<9} {verdict.name}")
        for line in (*verdict.problems, *verdict.notes):
            say(f"{'':<9}   {line}")
    refused = sum(bool(verdict.problems) for verdict in found.verdicts)
    count = f"{len(found.verdicts)} verdict{'s' * (len(found.verdicts) != 1)}"
    say(f"{count}: {len(found.tables)} accepted, {refused} refused")
    if into is not None:
        say(f"Put into {into}: {submissions.merge(found, into)} cells")
    if refused:
        raise typer.Exit(1)


def _measured(baseline: Baseline, results: Path | None, device: str, renew: bool) -> Measured:
    """What the plan gives, run in a folder of its own, or read."""
    from lgbench.bench import gate

    if results is not None:
        return gate.read_out(baseline, results, make_console())
    with tempfile.TemporaryDirectory(prefix="lgbench-regress-") as folder:
        return gate.carry_out(baseline, device, make_console(), Path(folder), renew=renew)


def _renew(path: Path, baseline: Baseline, measured: Measured, checks: list[Check]) -> None:
    """Write the baseline with the numbers of this run, and say what is another one."""
    from lgbench.answers import verdicts
    from lgbench.answers.baseline import Device, write_baseline
    from lgbench.answers.regress import blunt, renewed
    from lgbench.bench.gate import made

    before = baseline.devices.get(measured.device, Device())
    section = renewed(before, measured, before.made | made(measured))
    devices = {**baseline.devices, measured.device: section}
    write_baseline(path, baseline.model_copy(update={"devices": devices}))
    for line in verdicts.moved(checks) or ["nothing moved"]:
        say(line)
    for line in blunt(section):
        say(f"Note: {line}")
    say(f"Renewed: {path}, section {measured.device}")
