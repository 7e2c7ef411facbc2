"""`lgbench probe`: look inside trained models. Nothing heavy is imported before the command runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lgbench.cli_style import say
from lgbench.errors import UserError

if TYPE_CHECKING:
    from lgbench.plan.cells import Cell
    from lgbench.store.readings import Readings


def probe(
    name: Annotated[
        str, typer.Argument(help='A probe: state_norm or "seen_patches[group=64]"; see lgbench list probes.')
    ],
    task: Annotated[str | None, typer.Option(help="Task of the trained cells.")] = None,
    method: Annotated[list[str] | None, typer.Option(help="Methods, as in the label of their rows.")] = None,
    backbone: Annotated[str | None, typer.Option(help="Backbone of the trained cells.")] = None,
    train_length: Annotated[str | None, typer.Option(help="Training lengths, e.g. 256,1024.")] = None,
    seed: Annotated[
        str | None, typer.Option(help="Seeds, e.g. 0,1 (default: the lowest of each model).")
    ] = None,
    cell: Annotated[list[str] | None, typer.Option(help="Keys of cells, or their beginnings.")] = None,
    length: Annotated[
        str | None, typer.Option(help="Context lengths, e.g. 256,4096; the probe's own if left out.")
    ] = None,
    layers: Annotated[str | None, typer.Option(help="Layers from 0, e.g. 0,7; all if left out.")] = None,
    items: Annotated[
        int | None, typer.Option(min=1, help="Items to read; the probe's own if left out.")
    ] = None,
    results: Annotated[Path, typer.Option(help="Results folder with rows and checkpoints.")] = Path("runs"),
    out: Annotated[Path | None, typer.Option(help="Folder to keep readings in (default: RESULTS).")] = None,
    plot: Annotated[bool, typer.Option("--plot/--no-plot", help="Draw the figure.")] = True,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    data_dir: Annotated[Path | None, typer.Option(help="Folder with data files.")] = None,
    plugin: Annotated[
        list[Path] | None, typer.Option(help="Python file with a probe or another plugin.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Read again what is stored already.")] = False,
) -> None:
    """Look inside trained models: readings into RESULTS/probes, and a figure of them."""
    from lgbench.plugins import registry

    for path in plugin or []:
        registry.add_file(path)
    looker, plain = named_probe(name)
    wanted = {"task": task, "method": method, "backbone": backbone, "cell": cell}
    numbers = {"train_length": _ints("--train-length", train_length), "seed": _ints("--seed", seed)}
    cells = find_cells(results, **wanted, **numbers)
    from lgbench.run.device import choose_device
    from lgbench.run.probing import Look, look

    asked = Look(
        lengths=_ints("--length", length), layers=_ints("--layers", layers), num_items=items,
        device=str(choose_device(device)), data_dir=data_dir, force=force,
    )  # fmt: skip
    found = []
    for one in cells:
        path, readings = look(looker, plain, one, results, asked, out=out, on_progress=typer.echo)
        found.append(readings)
        _show(looker, readings, path)
    if plot:
        from lgbench.report.style import save

        stem = path if len(cells) == 1 else path.with_name(f"{plain}-{len(cells)}-models-{path.stem[-8:]}")
        say(f"Figure: {save(looker.figure(found), stem.with_suffix(''))[0]}")


def find_cells(
    results: Path,
    *,
    task: str | None,
    method: list[str] | None,
    backbone: str | None,
    cell: list[str] | None,
    train_length: tuple[int, ...],
    seed: tuple[int, ...],
) -> list[Cell]:
    """Trained cells that fit what was asked for, of every model the lowest seed or those given.

    Raises:
        UserError: there is none; what there is, or how to train one.
    """
    from lgbench.plan.rekey import cell_of_row

    known = _row_of_each_cell(results)
    if cell:
        chosen = [row for row in known if any(row["cell"].startswith(key) for key in cell)]
        for key in cell:
            if sum(row["cell"].startswith(key) for row in chosen) != 1:
                near = ", ".join(row["cell"] for row in known[:5]) or "none"
                raise UserError(f"--cell {key}: no single cell of {results} begins so; there are {near}")
        return [cell_of_row(row) for row in chosen]
    if task is None:
        raise UserError("say which model: --task NAME, with --method and --train-length, or --cell KEY")
    labels = [text.replace("-", "_") for text in method or ["vanilla"]]
    rows = [
        row
        for row in known
        if row["task"] == task.replace("-", "_")
        and row["label"] in labels
        and (not backbone or row["backbone"].partition("[")[0] == backbone)
        and (not train_length or row["train_length"] in train_length)
    ]
    trained = [row for row in rows if (results / "checkpoints" / row["training"]).is_dir()]
    if not trained:
        there = sorted({row["label"] for row in known if row["task"] == task})
        raise UserError(
            f"no trained {' or '.join(labels)} on {task} in {results}"
            + (
                f"; rows without weights: {len(rows)}"
                if rows
                else f"; methods there: {', '.join(there) or 'none'}"
            )
            + f". Train one with: lgbench run --task {task} --method {labels[0]} --results {results}"
        )
    models: dict[Any, list[dict[str, Any]]] = {}
    for row in sorted(trained, key=lambda r: (r["train_length"], r["seed"], -r["step"])):
        same = (
            row["label"],
            row["backbone"],
            row["train_length"],
            row["train_steps"],
            str(row["task_params"]),
        )
        models.setdefault(same, []).append(row)
    picked = [
        row
        for group in models.values()
        for row in ([r for r in group if r["seed"] in seed] if seed else group[:1])
        if row["step"] == group[0]["step"]
    ]
    if not picked:
        there = sorted({row["seed"] for row in trained})
        raise UserError(f"--seed {', '.join(map(str, seed))}: trained seeds are {', '.join(map(str, there))}")
    return [cell_of_row(row) for row in picked]


def cells_of(results: Path, keys: Sequence[str]) -> list[Cell]:
    """Those cells of a results folder that have these whole keys."""
    from lgbench.plan.rekey import cell_of_row

    return [cell_of_row(row) for row in _row_of_each_cell(results) if row["cell"] in keys]


def _row_of_each_cell(results: Path) -> list[dict[str, Any]]:
    import pyarrow as pa

    from lgbench.store import read

    table = read([results]).table
    places = {key: k for k, key in enumerate(table["cell"].to_pylist())}.values()
    return table.take(pa.array(places, pa.int64())).to_pylist(maps_as_pydicts="strict")


def named_probe(text: str) -> tuple[Any, str]:
    """The probe of a text such as `seen_patches[group=64]`, and its name."""
    from lgbench.plan.params import expand, parse_plugins, resolve
    from lgbench.plugins.registry import PROBES

    requests = [one for request in parse_plugins(text) for one in expand(request)]
    if len(requests) != 1:
        raise UserError(f"lgbench probe takes one probe at a time, got {len(requests)}")
    kind, name = PROBES.load(requests[0].name), PROBES.canonical(requests[0].name)
    made = kind(resolve(kind, requests[0].params, "probe", name))
    made.identity = PROBES.identity(name)
    return made, name


def _show(looker: Any, readings: Readings, path: Path) -> None:
    facts = readings.facts
    say(f"{facts['label']} on {facts['task']}, L_train {facts['train_length']:,}, seed {facts['seed']}")
    for row in readings.rows:
        if row.name in looker.statistics and row.layer is None and row.value == row.value:
            place = [f"length {row.length:,}"] if row.length is not None else []
            place += [row.group] if row.group else []
            say(f"  {row.name:<32} {row.value:>12.5g}  {', '.join(place)}")
    say(f"  {len(readings.rows)} readings, {len(readings.arrays)} arrays: {path}")


def _ints(option: str, text: str | None) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in (text or "").replace(",", " ").split())
    except ValueError:
        raise UserError(f"{option} {text}: expected whole numbers, such as 256,4096") from None
