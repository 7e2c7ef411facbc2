"""lgbench from Python: run cells, read rows, load trained models, by names of `lgbench` itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lgbench.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from lgbench.models.model import Model
    from lgbench.plan.cells import Cell
    from lgbench.task import Task

Plugin = str | type[Any]
"""A plugin by name, with parameters in brackets if any, or its class."""


def run(
    task: Plugin | Sequence[Plugin],
    method: Plugin | Sequence[Plugin] = "vanilla",
    backbone: Plugin | Sequence[Plugin] | None = None,
    *,
    lengths: Sequence[int] | None = None,
    results: str | Path = "runs",
    **options: Any,
) -> pd.DataFrame:
    """Train and evaluate, as `lgbench run` does; what is finished already is not run again.

    Args:
        task: names or classes of tasks.
        method: names or classes of methods.
        backbone: names or classes of backbones; None is the one that each method runs on by default.
        lengths: context lengths of the evaluation, in the task's unit.
        results: folder of rows and checkpoints.
        **options: those of `lgbench run`, with underscores: `preset="smoke"`, `seeds=3`, `train_steps=1000`.

    Returns:
        the rows of the cells that were asked for, as `rows` gives them.

    Raises:
        UserError: as `lgbench run`; cells that fail are rows with that status and no error.
    """
    from lgbench.launcher import choose_launcher
    from lgbench.plan.config import load_config
    from lgbench.plugins import registry
    from lgbench.run.events import events_of
    from lgbench.run.prepare import prepare
    from lgbench.run.progress import Progress
    from lgbench.safe_text import plain_console

    asked: dict[str, Any] = {
        "task": _names(task, registry.TASKS),
        "method": _names(method, registry.METHODS),
        "results": Path(results),
        **options,
    }
    if backbone is not None:
        asked["backbone"] = _names(backbone, registry.BACKBONES)
    if lengths is not None:
        asked["eval_lengths"] = tuple(lengths)
    config, console = load_config(None, asked), plain_console()
    launcher = choose_launcher(config)
    prepared = prepare(config, console)
    with events_of(config) as sinks:
        launcher.launch(config, prepared, Progress(console, sinks))
    found = rows(results)
    return found[found["cell"].isin([cell.key for cell in prepared.cells])].reset_index(drop=True)


def rows(*results: str | Path) -> pd.DataFrame:
    """Return all rows of results folders, one a measurement; columns as in `lgbench.store.SCHEMA`.

    Columns of parameters are dictionaries of JSON texts. Unreadable files are left out with a warning.

    Raises:
        UserError: a folder does not exist.
    """
    import warnings

    from lgbench.store import frame, read

    reading = read([Path(folder) for folder in results or ("runs",)])
    for path, reason in reading.unreadable.items():
        warnings.warn(f"{path} cannot be read: {reason}", stacklevel=2)
    return frame(reading)


def load(cell: str, results: str | Path = "runs", data_dir: str | Path | None = None, **data: str) -> Model:
    """Return the trained model of a cell, in evaluation mode, on the CPU.

    Args:
        cell: its key, or the beginning of it, as in the column `cell` of its rows.
        results: the folder that has its rows and checkpoints.
        data_dir: where the data of its task are looked for first; they decide sizes of some models.
        **data: parameters of the task that say where its data come from, which are in no row:
            `tokenizer="bytes"`.

    Raises:
        UserError: no such cell or several, its weights are not in the folder, or the data are others.
    """
    from lgbench.run.measure import trained_model

    found = find_cell(cell, results)
    try:
        model, _, _ = trained_model(found, prepared_task(found, data_dir, **data), Path(results))
    except FileNotFoundError as error:
        raise UserError(f"cell {found.key}: {error}. Its training can be run again") from None
    return model.eval()


def find_cell(cell: str, results: str | Path) -> Cell:
    """Return the one cell whose key begins so, as its rows describe it.

    Raises:
        UserError: there is none, or there are several.
    """
    from lgbench.plan.rekey import cell_of_row
    from lgbench.store import read

    table = read([Path(results)]).table
    names = sorted({name for name in table["cell"].to_pylist() if name.startswith(cell)})
    if len(names) != 1:
        known = ", ".join(names[:5]) or "none"
        raise UserError(f"no single cell '{cell}' in {results}; those that begin so: {known}")
    place = table["cell"].to_pylist().index(names[0])
    return cell_of_row(table.slice(place, 1).to_pylist(maps_as_pydicts="strict")[0])


def prepared_task(cell: Cell, data_dir: str | Path | None, **data: str) -> Task:
    """Return the task of a cell with its data, on the CPU.

    Args:
        cell: as `find_cell` gives it.
        data_dir: where its data are looked for first.
        **data: parameters of the task that say where its data come from, which are in no row.

    Raises:
        UserError: no such parameter, or the data here are not those that the cell was trained on.
    """
    import json

    import torch

    from lgbench.plan.cells import load_task
    from lgbench.plan.params import PluginRequest

    task = load_task(PluginRequest(cell.task, json.loads(cell.task_params) | data))
    task.prepare(torch.device("cpu"), None if data_dir is None else Path(data_dir))
    if task.data_fingerprint != cell.training.data_fingerprint:
        raise UserError(
            f"the data of {cell.task} here ({task.data_source}) are not those that the cell was trained on; "
            f"say what the training had: data_dir, {', '.join(sorted(task.data_params))}"
        )
    return task


def _names(asked: Plugin | Sequence[Plugin], registry: Any) -> tuple[str, ...]:
    """Names that the plan understands; classes are registered."""
    several = [asked] if isinstance(asked, (str, type)) else list(asked)
    return tuple(one if isinstance(one, str) else registry.add_class(one) for one in several)
