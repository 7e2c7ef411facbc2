"""The `lgbench` command. Every command is a few lines; nothing heavy is imported before one runs."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from lgbench import __version__, cli_fill, cli_run
from lgbench.cli_answers import add_answers
from lgbench.cli_checkpoint import export_checkpoint
from lgbench.cli_claims import claims
from lgbench.cli_examples import add_examples
from lgbench.cli_fidelity import fidelity
from lgbench.cli_probe import probe
from lgbench.cli_results import results_app
from lgbench.cli_status import status
from lgbench.cli_style import HELP, Commands, console, examples, say
from lgbench.errors import UserError
from lgbench.interrupt import watched
from lgbench.safe_text import for_rich, plain

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    context_settings=HELP,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
cli_run.register(app)
cli_fill.register(app)
data_app = typer.Typer(no_args_is_help=True, help="List, fetch and verify data sets.")
app.add_typer(data_app, name="data")
app.add_typer(results_app, name="results")
add_answers(app)
app.command()(claims)
app.command()(fidelity)
app.command(
    "export-checkpoint", epilog=examples("lgbench export-checkpoint 3f2a --results runs --out my-model")
)(export_checkpoint)
app.command(
    epilog=examples(
        "lgbench probe state_norm --task omniglot",
        "lgbench probe mean_distance --cell 6e90f6d0 --length 512,8192",
    )
)(probe)
app.command()(status)


def _say_version(wanted: bool) -> None:
    if wanted:
        say(f"lgbench {__version__}")
        raise typer.Exit


@app.callback(
    epilog=examples(
        "lgbench run --task marked_recall --preset smoke    train and evaluate",
        "lgbench report                                     figures and tables of what was run",
        "lgbench list methods decimamba                     parameters of a plugin",
        "lgbench COMMAND -h                                 options of a command",
    )
)
def lgbench(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Say it and exit.")
    ] = False,
) -> None:
    """How sequence models trained on short sequences behave on long ones, and which remedy helps."""


Results = Annotated[
    list[Path] | None, typer.Option("--results", help="Results folder; may be given several times.")
]
DataDir = Annotated[
    Path | None,
    typer.Option(help="Folder with data files, looked into before LGBENCH_DATA and the cache."),
]


@app.command()
def report(
    results: Results = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the report (default: RESULTS/report).")] = None,
    figures: Annotated[bool, typer.Option("--figures", help="Save figures as PNG and PDF, too.")] = False,
    style: Annotated[
        Path | None, typer.Option(help="Matplotlib style file over the figures' own; its width, too.")
    ] = None,
    tables: Annotated[bool, typer.Option("--tables", help="Print the tables here, too.")] = False,
    show: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
) -> None:
    """Figures and a self-contained HTML page from the store; says the answer in a sentence a task."""
    from lgbench.report.answer import answers
    from lgbench.report.page import build_report
    from lgbench.report.style import styled
    from lgbench.report.tables import tables_of

    roots = results or [Path("runs")]
    with styled(style):
        made = build_report(roots, out or roots[0] / "report", figures=figures)
    screen = console()
    if tables:
        for table in tables_of(made.results):
            screen.print(table)
    for warning in made.warnings:
        screen.print(for_rich("Note:", "yellow"), for_rich(warning), soft_wrap=True)
    for sentence in answers(made.results.boards):
        screen.print(for_rich(sentence), soft_wrap=True)
    if made.figures:
        screen.print(for_rich(f"Figure: {made.figures[0]}"), soft_wrap=True)
    screen.print(for_rich(f"Report: {made.html}"), soft_wrap=True)
    if show:
        typer.launch(made.html.resolve().as_uri())


@app.command()
def leaderboard(
    results: Results = None,
    out: Annotated[
        Path | None, typer.Option(help="Markdown file to write (default: RESULTS/leaderboard.md).")
    ] = None,
) -> None:
    """Rank methods by how far they carry; writes a Markdown table from the store (default: runs/)."""
    from lgbench.report.curves import load
    from lgbench.report.leaderboard import write_leaderboard

    roots = results or [Path("runs")]
    found = load(roots)
    for sentence in found.left_out:
        say(f"Left out: {sentence}")
    say(f"Leaderboard: {write_leaderboard(roots, out or roots[0] / 'leaderboard.md', found)}")


@app.command(
    "list", epilog=examples("lgbench list", "lgbench list methods", "lgbench list methods decimamba")
)
def list_plugins(
    kind: Annotated[
        str | None, typer.Argument(help="tasks, methods, backbones, probes or launchers; all if left out.")
    ] = None,
    name: Annotated[str | None, typer.Argument(help="A plugin, to see its parameters.")] = None,
    plugin: Annotated[list[Path] | None, typer.Option(help="Python file with a task or a method.")] = None,
) -> None:
    """Plugins by name, and what each is for; `methods`: also on which tasks and backbones each runs.

    With a name: its parameters, with their defaults, ranges and meaning.
    """
    from lgbench.plugins import registry

    groups = {
        "tasks": registry.TASKS,
        "methods": registry.METHODS,
        "backbones": registry.BACKBONES,
        "probes": registry.PROBES,
        "launchers": registry.LAUNCHERS,
    }
    if kind is not None and kind not in groups:
        raise UserError(f"lgbench list knows {', '.join(groups)}, not '{kind}'")
    for path in plugin or []:
        registry.add_file(path)
    if kind is not None and name is not None:
        from lgbench.plan.params import describe_plugin

        say("\n".join(describe_plugin(groups[kind], name)), lines=True)
        return
    for title in groups if kind is None else [kind]:
        plugins = groups[title]
        names = {one: one for one in plugins.names()} | {one: f"{one}:NAME" for one in plugins.families()}
        width = max(map(len, names.values()), default=0)
        say(f"{title}:")
        for one, shown in names.items():
            problem = plugins.problem(one)
            note = f"  [cannot run: {problem}]" if problem else ""
            say(f"  {shown:<{width}}  {plugins.summary(one)}{note}")
    if kind == "methods":
        from lgbench.plan.applicability import applicability, render

        say("\n" + "\n".join(render(applicability())), lines=True)


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

    screen = console()
    kept = True
    for title, verdicts in check_plugins(plugin or [], backbone or [], device):
        screen.print(for_rich(title, "bold"))
        for verdict in verdicts:
            kept &= verdict.kept
            mark = for_rich("ok  ") if verdict.kept else for_rich("BAD ", "red")
            screen.print(mark, f"{verdict.check:<28}", sep="", end="")
            screen.print(for_rich(verdict.found, lines=True), soft_wrap=True)
    if not kept:
        raise typer.Exit(1)


@app.command()
def show(
    task: Annotated[str, typer.Option(help='A task: passkey or "passkey[variant=repeated]".')],
    length: Annotated[
        int | None,
        typer.Option(
            min=1, help="Length of the context, in the task's unit (default: as in smoke training)."
        ),
    ] = None,
    item: Annotated[int, typer.Option(min=0, help="Evaluation item, counted from 0.")] = 0,
    param: Annotated[list[str] | None, typer.Option("-p", "--param", help="TASK.PARAMETER=VALUE.")] = None,
    data: Annotated[str | None, typer.Option(help="Where the text comes from, as in run.")] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="auto, bytes, bpe, or a tokenizers file or folder.")
    ] = None,
    data_dir: DataDir = None,
    out: Annotated[Path | None, typer.Option(help="PNG file for the picture of a task of images.")] = None,
) -> None:
    """One evaluation item: text with what the answer is found in, an image, or symbols by their numbers."""
    from lgbench.show import show as show_item

    given = dict(param=param or (), data=data, tokenizer=tokenizer, data_dir=data_dir, out=out)
    show_item(task, length, item, **given, console=console())


@app.command()
def doctor(
    data_dir: DataDir = None,
    thorough: Annotated[
        bool, typer.Option("--thorough", help="Check long scans too; takes minutes.")
    ] = False,
) -> None:
    """What this machine has, and whether every scan back end computes the right numbers on it."""
    from lgbench.doctor import examine

    marks = {True: "ok  ", False: "BAD ", None: "    "}
    bad = 0
    watched = sys.stderr.isatty()

    def begin(what: str) -> None:
        if watched:
            print(f"    {what:<42} …", end="\r", file=sys.stderr, flush=True)

    for finding in examine(data_dir, thorough, begin):
        bad += finding.ok is False
        say(f"{marks[finding.ok]}{finding.what:<42} {finding.found}", lines=True)
    if bad:
        say(f"{bad} problems, marked BAD above.")
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
    if not run_bench(measures, contenders, device=device, repeats=repeats, out=out, console=console()):
        raise typer.Exit(1)


@data_app.command("list")
def data_list(data_dir: DataDir = None) -> None:
    """Data sets, whether they are here, and their licence."""
    from lgbench.data import fetch
    from lgbench.terminal import Listing

    rows = [
        (row.data_set, plain(row.file), f"{row.size_bytes / 2**20:.1f}" if row.size_bytes else "",
         row.licence, plain(row.path) if row.path else "not here")
        for row in fetch.status(data_dir)
    ]  # fmt: skip
    headings = ("data set", "file", "MiB", "licence", "where")
    console().print(Listing(headings=headings, rows=rows, words=("data set", "file", "licence", "where")))


@data_app.command("fetch")
def data_fetch(
    name: Annotated[str, typer.Argument(help="Data set, see: lgbench data list")], data_dir: DataDir = None
) -> None:
    """Download a data set into the cache, checksums verified."""
    from lgbench.data import fetch, sources

    entry = sources.data_set(name)
    if not entry.files:
        raise UserError(
            f"{name} is nowhere published as a file to download. Put {' and '.join(entry.local)} into "
            f"FOLDER/{entry.folder}/ and name FOLDER with --data-dir or LGBENCH_DATA"
        )
    for file in entry.files:
        say(fetch.fetch(file.name, data_dir))


@data_app.command("verify")
def data_verify(data_dir: DataDir = None) -> None:
    """Check the checksums of every file that is here."""
    from lgbench.data import fetch

    checks = fetch.verify(data_dir)
    for check in checks:
        say(f"{check.file:<34} {check.problem or 'ok'}  {check.path}")
    if not checks:
        say("no data files are here. Get some with: lgbench data fetch omniglot")
    if any(check.problem for check in checks):
        raise typer.Exit(1)


add_examples(app)


def main() -> None:
    """Entry point of the `lgbench` command. What a terminal cannot show is replaced, never an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    os.environ.pop("MPLBACKEND", None)  # of a notebook, say; matplotlib ends where that is not installed
    with watched():
        app()


if __name__ == "__main__":
    main()
