"""Carry out `lgbench run`: find device and data, resolve the plan, then show it or launch it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console

from lgbench.durations import format_duration
from lgbench.errors import UserError
from lgbench.models import own_weights, pretrained
from lgbench.models.hub_files import find_folder
from lgbench.models.model import build_model
from lgbench.ops.scan.selective_scan import BACKENDS, resolve_backend
from lgbench.plan.cells import (
    Axes,
    Cell,
    identify,
    load_method,
    resolve_cells,
    task_key,
    why_left_out,
)  # fmt: skip
from lgbench.plan.config import RunConfig
from lgbench.plan.params import PluginRequest
from lgbench.plan.text import write_value
from lgbench.plugins import registry
from lgbench.plugins.contract import check_backbone
from lgbench.recipe import suggest
from lgbench.run.device import choose_device, choose_threads
from lgbench.run.estimate import Estimate, estimate
from lgbench.run.failures import ANY
from lgbench.run.ready import check_forced, make_ready, make_tasks, usable_methods
from lgbench.safe_text import for_rich
from lgbench.store import Store
from lgbench.task import Task
from lgbench.terminal import Listing

MOST_LISTED = 200
"""Cells that a dry run lists; it counts all."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A run, ready to go."""

    cells: list[Cell]
    tasks: dict[str, Task]
    store: Store
    device: torch.device
    broken: list[str]
    """Methods that were asked for and cannot be imported, and tasks that fail while they are prepared."""
    left_out: dict[str, str]
    """Key of a cell that cannot be run → why."""


def prepare(config: RunConfig, console: Console, *, dry: bool = False) -> Prepared:
    """Everything that can go wrong before the first step, in the order in which it is cheap to find out.

    Args:
        config: what was asked for.
        console: told of plugins that cannot be used and of stand-in data.
        dry: nothing will be written.

    Raises:
        UserError: a plugin, parameter, device, folder or data set that cannot be had.
    """
    for path in config.plugin:
        registry.add_file(path)
    task_requests, method_requests = config.requests()
    if config.pretrained is not None and config.tokenizer is None:
        task_requests = _own_tokenizer(task_requests, config.pretrained)
    method_requests, broken = usable_methods(method_requests, console)
    device = choose_device(config.device)
    _check_backend(config.scan_backend, device)
    named, unmade = make_tasks(task_requests, console)
    start = _pretrained(config)
    axes = config.axes()
    if config.pretrained is not None and config.backbone is None:
        axes["backbone"] = [PluginRequest(pretrained.kept(start["pretrained"]).sizes.backbone, {})]

    def resolve_plan(num_seeds: int) -> list[Cell]:
        return resolve_cells(
            named,
            method_requests,
            seeds=range(config.first_seed, config.first_seed + num_seeds),
            preset=config.preset,
            axes=Axes(**axes),
            overrides=config.recipe_overrides() | start,
        )

    resolve_plan(1)  # finds wrong grids, presets and parameters before any data are fetched
    store = Store(config.results)
    named, unready = make_ready(named, device, config, console)
    for _, task in named:
        if config.pretrained is not None:
            _fit_vocabulary(task, start["pretrained"], config.pretrained)
        if config.preset == "paper" and task.fine_tunes and not start:
            task.notice = " ".join(filter(None, [task.notice, _says_that_it_fine_tunes(task)]))
        if task.notice:
            console.print(for_rich("Note:", "yellow"), for_rich(task.notice), soft_wrap=True)
    if not dry:
        store.check_writable()
    cells = resolve_plan(config.seeds)
    check_forced(config.force_cells, cells)
    tasks = {identify(*pair): pair[1] for pair in named}
    if device.type == "cpu":
        choose_threads(cell.training.recipe.d_model for cell in cells)
    if config.weights is not None:
        _check_weights(cells, tasks)
    _check_scans(cells, config.scan_backend, device)
    _check_contracts(cells, device, console)
    left_out = _left_out(cells, tasks)
    for reason, num in Counter(left_out.values()).items():
        said = for_rich(f"{reason} ({_count(num, 'cell')})")
        console.print(for_rich("Left out:", "yellow"), said, soft_wrap=True)
    return Prepared(cells, tasks, store, device, broken + unmade + unready, left_out)


def _left_out(cells: Iterable[Cell], tasks: dict[str, Task]) -> dict[str, str]:
    """Key of a cell that cannot be run → why."""
    known: dict[tuple[str, ...], str] = {}
    found = {}
    for cell in cells:
        alike = (cell.method, cell.method_params, cell.training.backbone, task_key(cell), cell.left_out)
        if alike not in known:
            known[alike] = "" if cell.fault else _why_left_out(cell, tasks)
        if known[alike]:
            found[cell.key] = known[alike]
    return found


def _why_left_out(cell: Cell, tasks: dict[str, Task]) -> str:
    try:
        return why_left_out(cell, tasks[task_key(cell)])
    except ANY:  # its row will say so
        return ""


def _says_that_it_fine_tunes(task: Task) -> str:
    return (
        f"The paper fine-tunes {task.fine_tunes} for the few steps of the preset paper; here every weight "
        "starts at random, which is another experiment. To start where the paper does: "
        f"--pretrained {task.fine_tunes}"
    )


def _check_weights(cells: Iterable[Cell], tasks: dict[str, Task]) -> None:
    """Refuse weights that do not fit, before any training: every model is built once."""
    for cell in {cell.training.key: cell for cell in cells if not (cell.left_out or cell.fault)}.values():
        training = cell.training
        method = load_method(training.method, training.method_params)
        build_model(
            tasks[task_key(cell)], method, training.recipe, seed=training.seed,
            backbone=training.backbone, params=json.loads(training.backbone_params),
        )  # fmt: skip


def _check_scans(cells: Iterable[Cell], scan_backend: str, device: torch.device) -> None:
    """Refuse a scan back end that cannot do the sizes of a backbone."""
    trainings = (cell.training for cell in cells if not cell.left_out)
    for name, params in sorted({(t.backbone, t.backbone_params) for t in trainings}):
        kind = registry.BACKBONES.load(name)
        try:
            kind.check_backend(kind.Params.model_validate_json(params), scan_backend, device)
        except ValueError as error:
            asked = "" if scan_backend == "auto" else f"--scan-backend {scan_backend}, "
            raise UserError(f"{asked}backbone '{name}': {error}") from None


def _check_contracts(cells: Iterable[Cell], device: torch.device, console: Console) -> None:
    """Refuse a backbone of somebody else's that breaks its contract, in one line and before any training."""
    trainings = (cell.training for cell in cells if not cell.left_out)
    asked = {(t.backbone, t.backbone_params, t.recipe.d_model) for t in trainings}
    for name, params, d_model in sorted(asked):
        if registry.BACKBONES.built_in(name):
            continue
        for verdict in check_backbone(registry.BACKBONES.load(name), json.loads(params), device, d_model):
            if not verdict.kept:
                place = (
                    f'--backbone "{name}"' if ":" in name else f"--plugin {registry.BACKBONES.place(name)}"
                )
                raise UserError(
                    f"backbone '{name}' breaks its contract, {verdict.check}: {verdict.found}. "
                    f"All verdicts: lgbench check {place}"
                )
            if verdict.note:
                said = for_rich(f"backbone '{name}': {verdict.note}")
                console.print(for_rich("Note:", "yellow"), said, soft_wrap=True)


def _own_tokenizer(requests: list[PluginRequest], source: str) -> list[PluginRequest]:
    """Tasks of tokens read them as the checkpoint does, unless they say otherwise."""
    own = str(find_folder(source, ["tokenizer.json"]))
    return [
        PluginRequest(request.name, {"tokenizer": own, **request.params})
        if "tokenizer" in registry.TASKS.load(request.name).Params.model_fields
        else request
        for request in requests
    ]


def _pretrained(config: RunConfig) -> dict[str, Any]:
    """Fields of `Recipe` that published or own weights decide; none without any."""
    if config.weights is not None and config.pretrained is not None:
        raise UserError("--weights and --pretrained both say where to start; give one")
    if config.weights is not None:
        return {"weights": own_weights.keep(config.weights)}
    if config.pretrained is None:
        return {}
    checkpoint = pretrained.load_pretrained(config.pretrained)
    sizes = checkpoint.sizes
    for name in ("num_layers", "d_state", "d_model"):
        if getattr(config, name) is not None:
            raise UserError(f"--{name.replace('_', '-')} has no effect with --pretrained, which has its own")
    return {
        "pretrained": pretrained.keep(checkpoint),
        "d_model": sizes.d_model,
        "num_layers": sizes.num_layers,
        "sizes": suggest(**sizes.options),
    }


def _fit_vocabulary(task: Task, fingerprint: str, source: str) -> None:
    """Give the embedding the size that the checkpoint's has."""
    size = pretrained.kept(fingerprint).sizes.vocabulary
    if task.tokenizer.size > size:
        raise UserError(
            f"--pretrained {source}: knows {size} tokens, the tokenizer {task.tokenizer.name} has "
            f"{task.tokenizer.size}. Give the checkpoint's own with --tokenizer {source}"
        )
    task.vocabulary = size


def _check_backend(name: str, device: torch.device) -> None:
    if name == "block":
        if device.type != "cuda":
            raise UserError("--scan-backend block: the fused block needs CUDA. Use auto or torch here")
    elif name != "auto":
        try:
            resolve_backend(name, device)
        except ValueError as error:
            if name not in BACKENDS:
                raise UserError(
                    f"--scan-backend {name}: known are auto, block, {', '.join(BACKENDS)}"
                ) from None
            raise UserError(f"--scan-backend {name}: {error}") from None


def _backbone_words(cell: Cell) -> str:
    """The backbone with every parameter that differs from its default."""
    params = json.loads(cell.training.backbone_params)
    inner = ",".join(f"{name}={write_value(value)}" for name, value in params.items())
    return cell.training.backbone + (f"[{inner}]" if inner else "")


def dry_run(prepared: Prepared, console: Console) -> None:
    """Print the cells, which of them are finished, which share a training, and an estimate of time."""
    store, cells = prepared.store, prepared.cells
    numbers: dict[str, int] = {}
    unfinished = store.unfinished((c.task, c.key) for c in cells)
    rows: list[tuple[str, ...]] = []
    todo: list[Cell] = []
    for cell in cells:
        state = "fails" if cell.fault else "left out" if cell.key in prepared.left_out else "finished"
        if state == "finished" and (cell.task, cell.key) in unfinished:
            state = "to do"
            todo.append(cell)
        key, recipe = cell.training.key, cell.recipe
        number = "" if state in ("left out", "fails") else f"#{numbers.setdefault(key, len(numbers) + 1)}"
        if len(rows) < MOST_LISTED:
            rows.append((
                cell.key[:8], cell.task, cell.label, _backbone_words(cell), f"{recipe.train_length:,}",
                f"{cell.step:,}", str(recipe.num_layers), str(cell.seed), number, state,
            ))  # fmt: skip
    words = ("cell", "task", "method", "backbone", "state")
    headings = (*words[:4], "L_train", "steps", "layers", "seed", "training", words[4])
    console.print(Listing(headings=headings, rows=rows, words=words))
    if len(cells) > MOST_LISTED:
        console.print(f"… and {len(cells) - MOST_LISTED:,} more cells")
    left = Estimate()
    if todo:
        console.print("Timing a few steps and answers …")
        left = estimate(todo, prepared.tasks, store.root, prepared.device)
    num = len(cells) - len(prepared.left_out)
    finished = sum(c.key not in prepared.left_out and (c.task, c.key) not in unfinished for c in cells)
    others = f", and {len(prepared.left_out)} left out" if prepared.left_out else ""
    fits = "; calibration comes on top" if left.calibrates else ""
    console.print(
        f"{_count(num, 'cell')}, {finished} finished{others}; {_count(len(numbers), 'training')}. "
        f"About {format_duration(left.training_s)} of training and {format_duration(left.evaluation_s)} of "
        f"evaluation left on {prepared.device}, one after another{fits}.",
        highlight=False,
        soft_wrap=True,
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
