"""`lgbench claims`: the scorecard of published claims. Nothing heavy is imported before it runs."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lgbench.cli_style import say
from lgbench.errors import UserError
from lgbench.safe_text import for_rich

if TYPE_CHECKING:
    from lgbench.claims.readings import Look
    from lgbench.claims.render import Verdict
    from lgbench.plan.cells import Cell


class Format(StrEnum):
    """How verdicts are printed."""

    TABLE = "table"
    MARKDOWN = "markdown"
    JSON = "json"


def claims(
    ids: Annotated[
        list[str] | None, typer.Argument(help="Claims to show whole; all, in short, if left out.")
    ] = None,
    results: Annotated[
        list[Path] | None, typer.Option(help="Results folder (default: results); may be given several times.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Markdown file to write, e.g. results/claims.md.")] = None,
    form: Annotated[Format, typer.Option("--format", help="How to print them.")] = Format.TABLE,
    run: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Run what this claim lacks, into the first results folder."),
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="With --run: seeds of every model.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="With --run: only show the cells.")] = False,
    device: Annotated[str | None, typer.Option(help="With --run: auto, cpu or cuda.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="With --run: folder with data files.")] = None,
) -> None:
    """Judge published claims by the rows in the store: holds, contradicted, undecided, or not run."""
    from lgbench.claims import all_claims, find_claim
    from lgbench.claims.cells import Cells
    from lgbench.claims.render import verdicts_of, write_claims

    roots = results or [Path("results")]
    if run is not None:
        _run_missing(run, roots, seeds, dry=dry_run, device=device, data_dir=data_dir)
        if dry_run:
            return
        ids = [run]
    chosen = [find_claim(name) for name in ids or ()]
    cells = Cells.read(roots)
    for sentence in cells.left_out:
        say(f"Note: {sentence}", err=True)
    verdicts = verdicts_of(all_claims() if out or not chosen else chosen, cells)
    shown = [one for one in verdicts if one.claim in chosen] if chosen else verdicts
    _show(shown, roots, form, whole=bool(chosen))
    if out is not None:
        say(f"Claims: {write_claims(verdicts, roots, out, cells.left_out)}", err=form is not Format.TABLE)


def _run_missing(name: str, roots: Sequence[Path], seeds: int | None, **options: Any) -> None:
    """Train, measure and probe what a claim reads and the store does not have."""
    from lgbench.claims import find_claim
    from lgbench.claims.cells import Cells
    from lgbench.claims.model import plan_of
    from lgbench.claims.verdicts import lost, missing_seeds, unread

    claim = find_claim(name)
    cells = Cells.read([root for root in roots if root.is_dir()])
    if without := lost(claim, cells):
        models = "; ".join(dict.fromkeys(f"{model}, seed {seed}" for model, seed in without))
        raise UserError(
            f"--run {claim.id}: its probes need weights that are not in {roots[0]} ({models}). "
            f"Train them in a folder of your own: lgbench claims --run {claim.id} --results runs"
        )
    plan = plan_of(missing_seeds(claim, cells, seeds))
    looks = unread(claim, cells, seeds)
    if not plan and not looks:
        say(f"Nothing of {claim.id} has to be run.")
        return
    if plan:
        _run_plan(claim.id, plan, roots, options)
    if options["dry"]:
        for look, seed in looks:
            lengths = ", ".join(f"{length:,}" for length in look.lengths)
            say(f"probe {look.probe}: {look.model}, seed {seed}, lengths {lengths}, {look.items} items")
    elif looks:
        _look(looks, roots, options)


def _run_plan(
    claim: str, plan: Sequence[dict[str, Any]], roots: Sequence[Path], options: dict[str, Any]
) -> None:
    """Carry a plan out as `lgbench run` would, into the first results folder."""
    import yaml

    from lgbench import cli_run

    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / f"{claim}.yaml"
        config.write_text(yaml.safe_dump(list(plan), sort_keys=False), encoding="utf-8")
        cli_run.run(
            config=config,
            results=roots[0],
            device=options["device"],
            data_dir=options["data_dir"],
            dry_run=options["dry"],
        )


def _look(looks: Sequence[tuple[Look, int]], roots: Sequence[Path], options: dict[str, Any]) -> None:
    """Let probes look into trained cells; their readings go into the first results folder."""
    from lgbench.claims.cells import Cells
    from lgbench.cli_probe import cells_of, named_probe
    from lgbench.run.device import choose_device
    from lgbench.run.probing import Look as Asked
    from lgbench.run.probing import look as carry_out

    cells = Cells.read(roots)
    keys = {(look, seed): cells.cell(look.model, seed) for look, seed in looks}
    found: dict[str, tuple[Path, Cell]] = {}
    for root in roots:
        for cell in cells_of(root, list(keys.values())):
            if cell.key not in found or (root / "checkpoints" / cell.training.key).is_dir():
                found[cell.key] = root, cell
    device = str(choose_device(options["device"] or "auto"))
    for (look, _), key in keys.items():
        root, cell = found[key]
        probe, name = named_probe(look.probe)
        asked = Asked(lengths=look.lengths, num_items=look.items, device=device, data_dir=options["data_dir"])
        path, _ = carry_out(probe, name, cell, root, asked, out=roots[0], on_progress=say)
        say(f"Readings: {path}")


def _show(verdicts: Sequence[Verdict], roots: Sequence[Path], form: Format, *, whole: bool) -> None:
    from lgbench.claims.render import details, heading, line, part_lines, records, render

    if form is Format.JSON:
        say(json.dumps(records(verdicts), indent=1, ensure_ascii=True), lines=True)
    elif form is Format.MARKDOWN and not whole:
        say(render(verdicts, roots), lines=True, nl=False)
    elif form is Format.MARKDOWN:
        say("\n\n".join(text for one in verdicts for text in details(one)), lines=True)
    elif whole:
        _print_tables((heading(one), part_lines(one)) for one in verdicts)
    else:
        _print_tables([([], [line(one) for one in verdicts])])


def _print_tables(tables: Iterable[tuple[Sequence[str], list[dict[str, str]]]]) -> None:
    """Each as its heading, line by line, and a table."""
    from lgbench.cli_style import console
    from lgbench.terminal import Listing

    screen = console()
    for heading, lines in tables:
        for line in heading:
            screen.print(for_rich(line), soft_wrap=True)
        headings = list(lines[0])
        screen.print(Listing(headings=headings, rows=[[*row.values()] for row in lines], words=headings))
