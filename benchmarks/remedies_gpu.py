"""What remedies cost: evaluation with settings that change nothing, with settings that do, and calibration.

    PYTHONPATH=. python benchmarks/remedies_gpu.py                  ratios to vanilla on omniglot, small
    PYTHONPATH=. python benchmarks/remedies_gpu.py --calibration    SPSA of 24 layers at 16,384 tokens

Weights are random, which changes no time. Contenders take turns after a warm-up; a ratio is that of medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from lgbench.method import Method
from lgbench.models.model import build_model
from lgbench.plan.cells import load_task
from lgbench.plan.params import PluginRequest, expand, parse_plugins, resolve
from lgbench.plugins.registry import METHODS
from lgbench.run.calibrate import CalibrationData
from lgbench.run.evaluate import autocast, evaluate
from lgbench.task import Recipe, Task

IDENTITIES = (
    "mambaextend[scale=1]", "mambamodulation[scale=1]", "longmamba[strength=0]", "slow_clock[power=0]",
    "last_window[factor=1024]", "decimamba[layers=[[0]],l_base=1000000]", "state_passing",
)  # fmt: skip
ACTIVE = (
    "mambaextend[scale=0.5]", "mambamodulation[scale=0.5]", "slow_clock", "last_window",
    "decimamba[layers=[[0]]]", "decimamba[layers=[[1]]]", "decimamba[layers=[[4]]]",
)  # fmt: skip


def main() -> None:
    """Print a table, and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--lengths", default="1024,16384", help="context tokens")
    parser.add_argument("--items", type=int, default=512, help="images")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calibration", action="store_true", help="measure SPSA, not evaluations")
    parser.add_argument("--layers", type=int, default=24, help="of the calibrated model")
    parser.add_argument("--d-model", type=int, default=768, help="of the calibrated model")
    parser.add_argument("--steps", type=int, default=10, help="of the calibration")
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args()
    device = torch.device(options.device)
    found = calibration(options, device) if options.calibration else evaluations(options, device)
    if options.out:
        options.out.write_text(json.dumps(found, indent=1))


def evaluations(options: argparse.Namespace, device: torch.device) -> list[dict]:
    """Ratio of each contender's evaluation to vanilla's, at each length."""
    task = load_task(PluginRequest("omniglot", {"data": "procedural"}))
    task.prepare(device)
    found = []
    for length in map(int, options.lengths.split(",")):
        recipe = replace(
            task.recipe("small", "causal"), eval_lengths=(length,), query_grid=(), eval_items=options.items
        )
        items = task.eval_set(options.items, 0)
        calls = {text: _evaluation(task, text, recipe, items) for text in ("vanilla", *IDENTITIES, *ACTIVE)}
        medians = _take_turns(calls, options.rounds, device)
        for text, seconds in medians.items():
            kind = "identity" if text in IDENTITIES else "active" if text in ACTIVE else ""
            ratio = seconds / medians["vanilla"]
            found.append({"length": length, "method": text, "kind": kind, "s": seconds, "ratio": ratio})
            print(f"{length:>7} {kind:<9} {text:<42} {1e3 * seconds:9.1f} ms  {ratio:6.3f} of vanilla")
    return found


def calibration(options: argparse.Namespace, device: torch.device) -> list[dict]:
    """Seconds and memory of zeroth-order calibration: 20 texts of 16,384 tokens, one scale a layer."""
    task = load_task(PluginRequest("perplexity", {"data": "procedural"}))
    task.prepare(device)
    recipe = replace(
        task.recipe("paper", "causal"), num_layers=options.layers, d_model=options.d_model,
        eval_precision="bfloat16", eval_batch=4,
    )  # fmt: skip
    method = _method(f"mambaextend[calibrator=spsa,steps={options.steps}]")
    model = build_model(task, method, recipe, seed=0).eval().requires_grad_(False)
    length = int(options.lengths.split(",")[-1])
    data = CalibrationData(task, method, recipe, 0, {})
    with autocast(device, recipe):
        data.loss(model, data.draw("calibration", 1, length), {})  # compiles
        _wait(device)
        began = time.perf_counter()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        method.calibrate(model, data, length)
        _wait(device)
    seconds = time.perf_counter() - began
    peak = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else float("nan")
    losses = 3 * options.steps + 1
    print(
        f"{options.layers} layers, d_model {options.d_model}, 20 x {length} tokens, {options.steps} steps: "
        f"{seconds:.1f} s, {seconds / losses:.2f} s a loss ({losses} of them), peak {peak:.2f} GiB"
    )
    return [{"s": seconds, "steps": options.steps, "losses": losses, "peak_gib": peak, "length": length}]


def _method(text: str) -> Method:
    ((request,),) = [expand(one) for one in parse_plugins(text)]
    kind = METHODS.load(request.name)
    return kind(resolve(kind, request.params, "method", request.name))


def _evaluation(task: Task, text: str, recipe: Recipe, items: object) -> Callable[[], object]:
    method = _method(text)
    model = build_model(task, method, recipe, seed=0)
    return lambda: evaluate(model, task, method, recipe, items)


def _take_turns(
    calls: dict[str, Callable[[], object]], rounds: int, device: torch.device
) -> dict[str, float]:
    """Median seconds of each call, one sample each a round after a warm-up."""
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            _wait(device)
            began = time.perf_counter()
            call()
            _wait(device)
            samples[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in samples.items()}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
