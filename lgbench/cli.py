"""The `lgbench` command. Every command is a few lines; nothing heavy is imported before one runs."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from lgbench.cli_results import results_app
from lgbench.cli_status import status
from lgbench.errors import UserError

Ints = str | None


class _Commands(TyperGroup):
    """The one place where a `UserError` becomes a line and an exit status."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            typer.echo(f"lgbench: {error}", err=True)
            raise SystemExit(2) from None
        except KeyboardInterrupt:
            typer.echo(
                "\nlgbench: interrupted. Trainings are saved; "
                "the same command, without --force, goes on from there.",
                err=True,
            )
            raise SystemExit(130) from None


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="How sequence models trained on short sequences behave on long ones, and which remedy helps.",
)
data_app = typer.Typer(no_args_is_help=True, help="List, fetch and verify data sets.")
app.add_typer(data_app, name="data")
app.add_typer(results_app, name="results")
app.command()(status)

Results = Annotated[
    list[Path] | None, typer.Option("--results", help="Results folder; may be given several times.")
]
DataDir = Annotated[
    Path | None,
    typer.Option(help="Folder with data files, looked into before LGBENCH_DATA and the cache."),
]


@app.command()
def run(
    task: Annotated[
        list[str] | None, typer.Option(help='Tasks: omniglot or "omniglot[augment=false]".')
    ] = None,
    method: Annotated[
        list[str] | None, typer.Option(help='Methods: vanilla (default),"truncated[low=512]".')
    ] = None,
    param: Annotated[
        list[str] | None, typer.Option("-p", "--param", help="PLUGIN.PARAMETER=VALUE[,VALUE...].")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with these options; options win.")] = None,
    preset: Annotated[str | None, typer.Option(help="smoke, small (default) or paper.")] = None,
    seeds: Annotated[int | None, typer.Option(help="Number of seeds.")] = None,
    first_seed: Annotated[int | None, typer.Option(help="First seed.")] = None,
    train_length: Annotated[Ints, typer.Option(help="Training lengths, e.g. 256,1024.")] = None,
    train_steps: Annotated[Ints, typer.Option(help="Training steps, e.g. 1000,10000.")] = None,
    num_layers: Annotated[Ints, typer.Option(help="Depths, e.g. 2,4,8.")] = None,
    d_state: Annotated[Ints, typer.Option(help="State sizes, e.g. 2,8,32.")] = None,
    d_model: Annotated[int | None, typer.Option(help="Width of the backbone.")] = None,
    backbone: Annotated[
        list[str] | None, typer.Option(help='Backbones: mamba,mamba2 or "mamba[d_state=[8,16]]".')
    ] = None,
    lm_weight: Annotated[
        str | None, typer.Option(help="Weights of the language-model loss, e.g. 0,0.1.")
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="auto, bytes, bpe, or a tokenizers file or folder.")
    ] = None,
    pretrained: Annotated[
        str | None, typer.Option(help="Hugging Face Mamba checkpoint to start from.")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="Safetensors file to start from.")] = None,
    precision: Annotated[str | None, typer.Option(help="float32 or bfloat16, in training.")] = None,
    eval_precision: Annotated[str | None, typer.Option(help="Likewise in evaluation.")] = None,
    eval_at_steps: Annotated[Ints, typer.Option(help="Also evaluate after these training steps.")] = None,
    train_queries: Annotated[Ints, typer.Option(help="Queries in training: N, or LOW,HIGH to draw.")] = None,
    eval_lengths: Annotated[Ints, typer.Option(help="Context lengths of the evaluation.")] = None,
    eval_queries: Annotated[int | None, typer.Option(help="Queries after each context.")] = None,
    query_grid: Annotated[Ints, typer.Option(help="Numbers of queries of the second axis.")] = None,
    eval_items: Annotated[int | None, typer.Option(help="Evaluation items.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Sequences a training step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    data: Annotated[
        str | None, typer.Option(help="auto, the real set by name, procedural; of text, also a path.")
    ] = None,
    data_dir: DataDir = None,
    results: Annotated[Path | None, typer.Option(help="Results folder (default: runs).")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.")] = None,
    scan_backend: Annotated[
        str | None, typer.Option(help="auto, block, triton, mamba_ssm, torch, reference.")
    ] = None,
    save_every: Annotated[float | None, typer.Option(help="Seconds between resumable states.")] = None,
    side_by_side: Annotated[int | None, typer.Option(help="Trainings that share a GPU at a time.")] = None,
    launcher: Annotated[
        str | None, typer.Option(help='Where: local (default), processes, shard, "ray[num_gpus=0.25]".')
    ] = None,
    jobs: Annotated[int | None, typer.Option(help="Processes; one a GPU or a core if left out.")] = None,
    emit: Annotated[str | None, typer.Option(help="slurm: print an array's script, with --jobs N.")] = None,
    shard: Annotated[str | None, typer.Option(help="Which part of the plan, e.g. 2/8.")] = None,
    cell_timeout: Annotated[
        float | None, typer.Option(help="Seconds after which a training or evaluation is ended.")
    ] = None,
    log_json: Annotated[Path | None, typer.Option(help="File for events, a line of JSON each.")] = None,
    track: Annotated[Path | None, typer.Option(help="Folder for TensorBoard.")] = None,
    plugin: Annotated[list[Path] | None, typer.Option(help="Python file with a plugin.")] = None,
    force: Annotated[bool | None, typer.Option("--force/--resume", help="Run finished cells again.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be run.")] = False,
) -> None:
    """Train and evaluate methods on tasks; finished cells are skipped, interrupted ones go on."""
    options = {k: v for k, v in locals().items() if k not in ("config", "dry_run")}
    from lgbench.plan.config import load_plan

    console = _console()
    runs = load_plan(config, options)
    if emit is not None:
        from lgbench.plan.slurm import slurm_script

        typer.echo(slurm_script(config, options), nl=False)
        return
    fine = [_run_one(settings, console, dry_run) for settings in runs]
    if not dry_run:
        for folder in dict.fromkeys(str(settings.results) for settings in runs):
            typer.echo(f"Rows are in {folder}. Next: lgbench report --results {folder}")
    if not all(fine):
        raise typer.Exit(1)


def _run_one(settings: Any, console: Any, dry: bool) -> bool:
    """Carry out, or only show, one run; whether every cell that was asked for has numbers."""
    from lgbench.launcher import choose_launcher
    from lgbench.report.tables import summary_table
    from lgbench.run import prepare as runner
    from lgbench.run.events import events_of
    from lgbench.run.progress import Progress

    launcher = choose_launcher(settings)
    prepared = runner.prepare(settings, console, dry=dry)
    if dry:
        runner.dry_run(prepared, console)
        return not prepared.broken
    with events_of(settings) as sinks:
        outcome = launcher.launch(settings, prepared, Progress(console, sinks))
    if outcome.finished + outcome.skipped_as_done:
        for table in summary_table([settings.results], {cell.key for cell in prepared.cells}):
            console.print(table)
    if outcome.failed:
        console.print(f"[red]Cells without numbers: {len(outcome.failed)}[/red]; the report says why.")
    return not (outcome.failed or prepared.broken)


@app.command()
def report(
    results: Results = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the report (default: RESULTS/report).")] = None,
) -> None:
    """Figures, tables and a self-contained HTML page from the store."""
    from lgbench.report.page import build_report
    from lgbench.report.tables import summary_table

    roots = results or [Path("runs")]
    made = build_report(roots, out or roots[0] / "report")
    console = _console()
    for table in summary_table(roots):
        console.print(table)
    for warning in made.warnings:
        console.print(f"[yellow]Note:[/yellow] {warning}", highlight=False)
    console.print(f"Report: {made.html}", soft_wrap=True)


@app.command()
def leaderboard(
    results: Results = None,
    out: Annotated[Path, typer.Option(help="Markdown file to write.")] = Path("leaderboard.md"),
) -> None:
    """Rank methods by how far they carry; writes a Markdown table from the store (default: results/)."""
    from lgbench.report.leaderboard import write_leaderboard

    typer.echo(f"Leaderboard: {write_leaderboard(results or [Path('results')], out)}")


@app.command("list")
def list_plugins(
    kind: Annotated[str | None, typer.Argument(help="tasks, methods, backbones, launchers.")] = None,
    plugin: Annotated[list[Path] | None, typer.Option(help="Python file with a task or a method.")] = None,
) -> None:
    """Plugins by name, and what each is for; `methods`: also on which tasks and backbones each runs."""
    from lgbench.plugins import registry

    groups = {"tasks": registry.TASKS, "methods": registry.METHODS, "backbones": registry.BACKBONES}
    groups["launchers"] = registry.LAUNCHERS
    if kind is not None and kind not in groups:
        raise UserError(f"lgbench list knows {', '.join(groups)}, not '{kind}'")
    for path in plugin or []:
        registry.add_file(path)
    for title in groups if kind is None else [kind]:
        plugins = groups[title]
        names = plugins.names()
        width = max(map(len, names), default=0)
        typer.echo(f"{title}:")
        for name in names:
            problem = plugins.problem(name)
            note = f"  [cannot run: {problem}]" if problem else ""
            typer.echo(f"  {name:<{width}}  {plugins.summary(name)}{note}")
    if kind == "methods":
        from lgbench.plan.applicability import applicability, render

        typer.echo("\n" + "\n".join(render(applicability())))


@app.command()
def check(
    plugin: Annotated[list[Path] | None, typer.Option(help="Python file with plugins.")] = None,
    backbone: Annotated[
        list[str] | None, typer.Option(help='Backbones by name: gla or "gla[num_heads=8]".')
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Whether plugins keep their contracts, before anything is trained; exit status 1 if one does not."""
    from lgbench.plugins.verdicts import check_plugins

    console = _console()
    kept = True
    for title, verdicts in check_plugins(plugin or [], backbone or [], device):
        console.print(f"[bold]{title}[/bold]", highlight=False)
        for verdict in verdicts:
            kept &= verdict.kept
            mark = "ok  " if verdict.kept else "[red]BAD [/red]"
            console.print(f"{mark}{verdict.check:<28}", end="")
            console.print(verdict.found, markup=False, highlight=False, soft_wrap=True)
    if not kept:
        raise typer.Exit(1)


@app.command()
def show(
    task: Annotated[str, typer.Option(help='A language task: passkey or "passkey[variant=repeated]".')],
    length: Annotated[int, typer.Option(min=1, help="Length of the context.")] = 512,
    item: Annotated[int, typer.Option(min=0, help="Evaluation item, counted from 0.")] = 0,
    param: Annotated[list[str] | None, typer.Option("-p", "--param", help="TASK.PARAMETER=VALUE.")] = None,
    data: Annotated[str | None, typer.Option(help="Where the text comes from, as in run.")] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="auto, bytes, bpe, or a tokenizers file or folder.")
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """One evaluation item of a language task as text, what the answer is found in highlighted."""
    from lgbench.show import show as show_item

    given = dict(param=param or (), data=data, tokenizer=tokenizer, data_dir=data_dir)
    show_item(task, length, item, **given, console=_console())


@app.command()
def doctor(data_dir: DataDir = None) -> None:
    """What this machine has, and whether every scan back end computes the right numbers on it."""
    from lgbench.doctor import examine

    marks = {True: "ok  ", False: "BAD ", None: "    "}
    bad = 0
    for finding in examine(data_dir):
        bad += finding.ok is False
        typer.echo(f"{marks[finding.ok]}{finding.what:<42} {finding.found}")
    if bad:
        typer.echo(f"{bad} problems, marked BAD above.")
        raise typer.Exit(1)


@app.command()
def bench(
    what: Annotated[str | None, typer.Option(help="scan,step,stream,curve; all if left out.")] = None,
    backends: Annotated[
        str | None, typer.Option(help="triton,torch,block,mamba_ssm,mambapy,transformers,fla,reference.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    repeats: Annotated[int | None, typer.Option(min=1, help="Samples of each contender (20).")] = None,
    out: Annotated[Path, typer.Option(help="Folder for rows and figure.")] = Path("runs/bench"),
) -> None:
    """Time scans, training steps, long streams and evaluation here, with every back end installed."""
    from lgbench.bench import run_bench

    measures, contenders = ((text or "").replace(",", " ").split() for text in (what, backends))
    if not run_bench(measures, contenders, device=device, repeats=repeats, out=out, console=_console()):
        raise typer.Exit(1)


@data_app.command("list")
def data_list(data_dir: DataDir = None) -> None:
    """Data sets, whether they are here, and their licence."""
    from lgbench.data import fetch

    for row in fetch.status(data_dir):
        where = row.path if row.path else "not here"
        typer.echo(
            f"{row.data_set:<16} {row.file:<34} {row.size_bytes / 2**20:7.1f} MiB  {row.licence:<14} {where}"
        )


@data_app.command("fetch")
def data_fetch(
    name: Annotated[str, typer.Argument(help="Data set, see: lgbench data list")], data_dir: DataDir = None
) -> None:
    """Download a data set into the cache, checksums verified."""
    from lgbench.data import fetch, sources

    for file in sources.data_set(name).files:
        typer.echo(str(fetch.fetch(file.name, data_dir)))


@data_app.command("verify")
def data_verify(data_dir: DataDir = None) -> None:
    """Check the checksums of every file that is here."""
    from lgbench.data import fetch

    checks = fetch.verify(data_dir)
    for check in checks:
        typer.echo(f"{check.file:<34} {check.problem or 'ok'}  {check.path}")
    if not checks:
        typer.echo("no data files are here. Get some with: lgbench data fetch omniglot")
    if any(check.problem for check in checks):
        raise typer.Exit(1)


def _console() -> Any:
    """Where tables and progress go; wide where nobody's window decides, so that a log shows whole cells."""
    from rich.console import Console

    narrow = os.environ.get("COLUMNS", "").isdigit() and int(os.environ["COLUMNS"]) > 0
    return Console() if sys.stdout.isatty() or narrow else Console(width=160)


def main() -> None:
    """Entry point of the `lgbench` command. What a terminal cannot show is replaced, never an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    app()


if __name__ == "__main__":
    main()
