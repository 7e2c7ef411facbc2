"""Does the regression gate alarm when it should, and only then? Run by hand, on a busy machine or not.

    python benchmarks/regress_gate.py --repeats 10 --load 4         undisturbed code on a loaded machine
    python benchmarks/regress_gate.py --slower 0.3                  every piece of work takes 30 % longer
    python benchmarks/regress_gate.py --worse 0.05                  5 % of the right answers count as wrong
    python benchmarks/regress_gate.py --speed-only --repeats 10     times alone: nothing is trained

Each repetition carries out the plan of tests/regress/baseline.yaml, as `lgbench regress` does, and prints its
exit status, what was not ok, and the load of the machine. `--load N` keeps N processes computing meanwhile.
"""

import argparse
import io
import multiprocessing
import os
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console

from lgbench.answers import regress, verdicts
from lgbench.answers.baseline import read_baseline
from lgbench.bench import gate
from lgbench.plugins.registry import TASKS

BASELINE = Path(__file__).parent.parent / "tests" / "regress" / "baseline.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--baseline", type=Path, default=BASELINE)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--load", type=int, default=0, help="processes that compute meanwhile")
    parser.add_argument("--slower", type=float, default=0.0, help="share of its time that each work wastes")
    parser.add_argument("--worse", type=float, default=0.0, help="share of answers that count as wrong")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--speed-only", action="store_true", help="run no cell; compare times alone")
    asked = parser.parse_args()
    plant(asked.slower, asked.worse)
    baseline = read_baseline(asked.baseline)
    others = [multiprocessing.Process(target=compute, daemon=True) for _ in range(asked.load)]
    for other in others:
        other.start()
    alarms = 0
    for number in range(1, asked.repeats + 1):
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            quiet = Console(file=io.StringIO())
            if asked.speed_only:
                checks = speed_checks(baseline, asked.device, quiet, Path(folder))
            else:
                measured = gate.carry_out(baseline, asked.device, quiet, Path(folder))
                checks = regress.judge(baseline.devices[measured.device], measured, baseline.golden)
        status = regress.exit_status(checks)
        alarms += status != 0
        took, load = time.monotonic() - began, os.getloadavg()[0]
        print(f"{number}: exit {status} after {took:.0f} s, load {load:.1f}; {verdicts.sentence(checks)}")
        for check in checks:
            if check.kind == "speed" or check.verdict == regress.REGRESSION:
                times = f"{check.before:.4f} → {check.now:.4f}" if check.before and check.now else ""
                print(f"   {check.what}: {times}, {check.verdict} {check.note}", flush=True)
    for other in others:
        other.terminate()
    print(f"{alarms} of {asked.repeats} repetitions raised an alarm")


def speed_checks(baseline, device: str, console: Console, folder: Path) -> list[regress.Check]:
    """The comparisons of times, with nothing trained."""
    prepared = [one for _, one in gate._prepared(baseline.plan, device, console, folder, dry=True)]
    kind = prepared[0].device
    before = baseline.devices[kind.type]
    now = regress.Measured(processor=gate.processor(kind))
    is_same = before.made.get("processor") == now.processor
    limits = {what: regress.speed_limit(speed, is_same) for what, speed in before.speed.items()}
    now.speed, now.is_busy = gate.timed(prepared, limits)
    return [check for check in regress.judge(before, now, baseline.golden) if check.kind == "speed"]


def plant(slower: float, worse: float) -> None:
    """Make every timed piece of work slower by this share, and this share of right answers wrong."""
    step, evaluation = gate._step, gate._evaluation

    def wasteful(call):
        def slow() -> object:
            began = time.process_time()
            found = call()
            enough = time.process_time() + slower * (time.process_time() - began)
            while time.process_time() < enough:
                pass
            return found

        return slow

    if slower:
        gate._step = lambda *known: wasteful(step(*known))
        gate._evaluation = lambda *known: wasteful(evaluation(*known))
    if worse:
        kind = TASKS.load("marked_recall")
        score = kind.score

        def spoiled(self, predictions, targets):
            right = score(self, predictions, targets)
            kept = torch.arange(right.numel(), device=right.device) >= round(worse * right.numel())
            return right * kept.view_as(right)

        kind.score = spoiled


def compute() -> None:
    """Keep one core busy."""
    torch.set_num_threads(1)
    a = torch.randn(256, 256)
    while True:
        a = torch.tanh(a @ a)


if __name__ == "__main__":
    main()
