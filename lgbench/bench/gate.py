"""Carry out the plan of a regression gate: run its cells, look at the first losses, time its work."""

from __future__ import annotations

import json
import platform
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import torch
from rich.console import Console

import lgbench
from lgbench.answers.baseline import Baseline, Device
from lgbench.answers.regress import DIGITS, Measured, read_quality, speed_limit
from lgbench.bench import pace
from lgbench.bench.timing import Call
from lgbench.errors import UserError
from lgbench.launchers.local import Local
from lgbench.models.model import build_model
from lgbench.plan.cells import Cell, load_method, task_key
from lgbench.plan.config import plan_of
from lgbench.plan.text import write_value
from lgbench.run.evaluate import evaluate
from lgbench.run.measure import Items
from lgbench.run.prepare import Prepared, prepare
from lgbench.run.progress import Progress
from lgbench.run.schedule import draw_lengths
from lgbench.run.train import Trainer

_ITEMS = 16
"""Items of a timed evaluation, at most: few fit into the processor's cache as the reference does, so that
others who use the memory slow both alike."""
_LOOKED_AT = 20
"""First steps among which the one with the longest context is timed."""


def carry_out(
    baseline: Baseline, device: str, console: Console, folder: Path, *, renew: bool = False
) -> Measured:
    """Run the plan in an empty folder, then compute first losses and times.

    Args:
        baseline: plan and limits.
        device: auto, cpu or cuda.
        console: told what happens.
        folder: where rows and weights go.
        renew: the limits of the baseline do not count, since it is made anew.

    Raises:
        UserError: the plan cannot be run.
    """
    prepared = _prepared(baseline.plan, device, console, folder)
    for config, one in prepared:
        Local().launch(config, one, Progress(console))
    kind = prepared[0][1].device
    measured = read_quality(folder, _cells(prepared))
    measured.device, measured.processor = kind.type, processor(kind)
    before = baseline.devices.get(kind.type, Device())
    is_same = before.made.get("processor") == measured.processor
    console.print("Timing pieces of work in turns with the reference …")
    limits = {what: speed_limit(speed, is_same) for what, speed in before.speed.items() if not renew}
    measured.speed, measured.is_busy = timed([one for _, one in prepared], limits)
    measured.losses = {}
    if baseline.golden is not None:
        console.print(f"First losses of {len(baseline.golden.plan)} runs …")
        for _, one in _prepared(baseline.golden.plan, device, console, folder):
            measured.losses |= _first_losses(one, baseline.golden.steps)
    return measured


def read_out(baseline: Baseline, results: Path, console: Console) -> Measured:
    """What rows of a results folder say of the plan; nothing is run or timed.

    Raises:
        UserError: no such folder, none of the plan's cells has rows there, or the plan cannot be resolved.
    """
    measured = read_quality(results, _cells(_prepared(baseline.plan, "cpu", console, results, dry=True)))
    if not measured.device:
        raise UserError(
            f"--results {results} has no rows of the plan '{baseline.name}'. Without --results it is run"
        )
    return measured


def made(measured: Measured) -> dict[str, str]:
    """What a section of a baseline is made with; rows alone do not name the processor."""
    return ({"processor": measured.processor} if measured.processor else {}) | {
        "torch": torch.__version__,
        "lgbench": lgbench.__version__,
        "python": platform.python_version(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def processor(device: torch.device) -> str:
    """Name of the GPU or of the processor, as the machine gives it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def _prepared(
    plan: list[dict], device: str, console: Console, folder: Path, *, dry: bool = False
) -> list[tuple]:
    configs = plan_of(plan, {"device": device, "results": folder})
    return [(config, prepare(config, console, dry=dry)) for config in configs]


def _cells(prepared: Iterable[tuple]) -> dict[str, str]:
    """Key of each cell of the plan → how it reads."""
    return {
        cell.key: f"{cell.task} {cell.label} {cell.training.backbone} L_train "
        f"{cell.recipe.train_length}, seed {cell.seed}"
        for _, one in prepared
        for cell in one.cells
    }


def _first_losses(prepared: Prepared, num_steps: int) -> dict[str, list[float]]:
    """Losses of the first steps of every training of a run."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for cell in _one_a_training(prepared.cells):
            trainer = _trainer(cell, prepared, Path(folder))
            for _ in range(min(num_steps, trainer.recipe.train_steps)):
                trainer.one_step()
            trainer.settle(time.monotonic(), 1)
            losses = trainer.log[: trainer.step].tolist()
            found[f"{_name(cell)}, seed {cell.seed}"] = [round(loss, DIGITS) for loss in losses]
    return found


def timed(several: Iterable[Prepared], limits: Mapping[str, float]) -> pace.Pace:
    """Times of a training step of each training and of an evaluation of each method, first seeds alone."""
    with tempfile.TemporaryDirectory() as folder:
        works: dict[str, Call] = {}
        for prepared in several:
            device = prepared.device
            first = min(cell.seed for cell in prepared.cells)
            cells = [cell for cell in prepared.cells if cell.seed == first and not cell.left_out]
            for cell in _one_a_training(cells):
                works[f"{_name(cell)}, training step"] = _step(_trainer(cell, prepared, Path(folder)))
            for cell in cells:
                if not cell.calibration_format:
                    works[f"{_name(cell, cell.label)}, evaluation"] = _evaluation(cell, prepared)
        with pace.one_thread(device):
            beside, clock = pace.reference(device), pace.both_clocks(device)

            def measure(names: Iterable[str]) -> pace.Pace:
                return pace.ratios({name: works[name] for name in names}, beside, clock)

            return pace.confirmed(measure, works, limits)


def _one_a_training(cells: Iterable[Cell]) -> list[Cell]:
    return list({cell.training.key: cell for cell in cells if not cell.left_out}.values())


def _name(cell: Cell, label: str = "") -> str:
    """A training, or with a label the use of one, in words."""
    training = cell.training
    params = json.loads(training.backbone_params)
    inner = ",".join(f"{name}={write_value(value)}" for name, value in params.items())
    return (
        f"{cell.task} {label or training.method} on {training.backbone}{f'[{inner}]' if inner else ''}, "
        f"L_train {cell.recipe.train_length}"
    )


def _trainer(cell: Cell, prepared: Prepared, folder: Path) -> Trainer:
    training = cell.training
    method = load_method(training.method, training.method_params)
    return Trainer(training, prepared.tasks[task_key(cell)], method, folder)


def _step(trainer: Trainer) -> Call:
    """The step with the longest of the first contexts, again and again."""
    training = trainer.training
    longest = max(range(_LOOKED_AT), key=lambda step: draw_lengths(training, step, 0)[0])

    def call() -> None:
        trainer.step = longest
        trainer.one_step()

    return call


def _evaluation(cell: Cell, prepared: Prepared) -> Callable[[], object]:
    """All points of a cell on a few items, with weights as they were drawn."""
    task = prepared.tasks[task_key(cell)]
    recipe = replace(cell.recipe, eval_items=min(cell.recipe.eval_items, _ITEMS))
    method = load_method(cell.method, cell.method_params)
    model = build_model(
        task, method, recipe, seed=cell.seed,
        backbone=cell.training.backbone, params=json.loads(cell.training.backbone_params),
    )  # fmt: skip
    items = Items(task, recipe.eval_items, recipe.eval_lengths[-1])
    return lambda: evaluate(model, task, method, recipe, items.items)
