"""Check the fused Mamba block on a GPU against float64, then time stacks of it as captured graphs.

    PYTHONPATH=. python benchmarks/block_gpu.py   as shipped
    PYTHONPATH=. python benchmarks/block_gpu.py --set chunk=32,48 --set registers_outputs=96,128   variants

Prints a table last, and writes every number as JSON into the folder of --out (default: $OUT, else nowhere).
"""

import argparse
import itertools
import json
import os
import statistics
from pathlib import Path

import torch
from torch import Tensor
from triton.runtime.errors import OutOfResources

from lgbench.ops.block import triton_block as kernels
from lgbench.ops.block.mamba_block import mamba_block, plain_block

NAMES = kernels.Weights._fields
CHECK_SHAPES = (
    (2, 1, 8),
    (3, 63, 8),
    (2, 257, 8),
    (2, 257, 2),
    (2, 130, 16),
    (4, 1537, 8),
    (64, 1537, 8),
    (1, 40000, 8),
)
TIME_LENGTHS = (1025 + 512, 1025 + 1024)
NUM_LAYERS = 8


def main() -> None:
    """Run the checks and the timings that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--set", action="append", default=[], help="FIELD=V1,V2: values of a field of the plan"
    )
    parser.add_argument("--skip-checks", action="store_true")
    parser.add_argument("--few-checks", action="store_true", help="only the shapes with 8 states")
    parser.add_argument(
        "--length", type=int, action="append", help="time these lengths (default 1537 and 2049)"
    )
    parser.add_argument("--profile", action="store_true", help="also the time of each kernel in one step")
    parser.add_argument("--out", default=os.environ.get("OUT", ""))
    arguments = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    found = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "checks": [], "times": []}
    if not arguments.skip_checks:
        for batch, length, d_state in CHECK_SHAPES:
            if arguments.few_checks and d_state != 8:
                continue
            for masked in (False, True):
                worst = check(batch, length, d_state, masked)
                found["checks"].append(
                    {"batch": batch, "length": length, "d_state": d_state, "masked": masked} | worst
                )
                print(
                    batch,
                    length,
                    d_state,
                    "masked" if masked else "",
                    {k: f"{v:.1e}" for k, v in worst.items()},
                )
    default = kernels.plan
    for name, variant in variants(arguments, default):
        kernels.plan = variant
        for length in arguments.length or TIME_LENGTHS:
            batch = 64
            row = {"variant": name, "batch": batch, "length": length, **time_stack(batch, length)}
            if arguments.profile and not row["error"]:
                row["kernels_us"] = profile_step(batch, length)
            found["times"].append(row)
            print(row)
    kernels.plan = default
    if arguments.out:
        name = f"block_gpu_{os.getpid()}.json"
        Path(arguments.out, name).write_text(json.dumps(found, indent=1))
    print(f"{found['device']}, {NUM_LAYERS} blocks, ms per call of a captured graph")
    print(f"{'variant':48} {'batch x length':>16} {'no grad':>9} {'forward+backward':>17}")
    for row in found["times"]:
        shape = f"{row['batch']} x {row['length']}"
        print(f"{row['variant']:48} {shape:>16} {row['forward_ms']:9.3f} {row['both_ms']:17.3f}")
    bad = [
        row for row in found["checks"] if max(row["values"], row["gradients"]) > 2e-5 or not row["repeats"]
    ]
    print(f"checks: {len(found['checks'])} run, {len(bad)} beyond 2e-5", bad)


def variants(arguments: argparse.Namespace, default):
    """Yield a name and a plan for each combination of --set flags; the shipped plan if there are none."""
    axes = [
        [(name, int(v)) for v in values.split(",")]
        for name, values in (flag.split("=") for flag in arguments.set)
    ]
    for changes in itertools.product(*axes):

        def cut(batch: int, length: int, states: int, changes=changes):
            plan = default(batch, length, states)._replace(**dict(changes))
            chunks = -(-length // plan.chunk)
            return plan._replace(num_chunks=chunks, total_chunks=batch * chunks)

        yield " ".join(f"{name}={value}" for name, value in changes) or "shipped", cut


def random_weights(
    d_state: int, generator: torch.Generator, d_model: int = 16, d_inner: int = 32
) -> dict[str, Tensor]:
    """Float64 weights with decays spread as in a trained model."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    weights = (
        1 + 0.2 * normal(d_model),
        0.3 * normal(2 * d_inner, d_model),
        0.3 * normal(1 + 2 * d_state, d_inner),
        normal(d_inner, 1),
        normal(d_inner) - 3,
        torch.log(torch.arange(1, d_state + 1).double()).expand(d_inner, d_state)
        + 0.1 * normal(d_inner, d_state),
        1 + 0.1 * normal(d_inner),
        0.1 * normal(d_model, d_inner),
    )
    return dict(zip(NAMES, weights, strict=True))


def check(batch: int, length: int, d_state: int, masked: bool) -> dict[str, float | bool]:
    """Largest relative errors of results and gradients, against float64; whether a second run is equal."""
    generator = torch.Generator().manual_seed(length * 7 + d_state)
    weights = random_weights(d_state, generator)
    tokens = torch.randn(batch, length, 16, generator=generator, dtype=torch.float64)
    h0 = torch.randn(batch, 32, d_state, generator=generator, dtype=torch.float64)
    pulls = torch.randn_like(tokens), torch.randn_like(h0)
    mask = torch.rand(batch, length, generator=generator) > 0.3 if masked else None
    if masked:
        mask[0, : length // 2] = False

    def run(dtype: torch.dtype, fused: bool) -> list[Tensor]:
        to = {"dtype": dtype, "device": "cuda"}
        leaves = [tensor.to(**to).requires_grad_() for tensor in (tokens, h0, *weights.values())]
        cut = None if mask is None else mask.cuda()
        if fused:
            results = mamba_block(
                leaves[0], **dict(zip(NAMES, leaves[2:], strict=True)), h0=leaves[1], mask=cut
            )
        else:
            results = plain_block(leaves[0], tuple(leaves[2:]), 1e-5, leaves[1], cut)
        grads = torch.autograd.grad(results, leaves, [pull.to(**to) for pull in pulls])
        return [result.detach().double() for result in (*results, *grads)]

    expected, got, again = run(torch.float64, False), run(torch.float32, True), run(torch.float32, True)
    errors = [float((a - b).norm() / b.norm().clamp_min(1e-30)) for a, b in zip(got, expected, strict=True)]
    errors = [error if error == error else float("inf") for error in errors]
    repeats = all(torch.equal(a, b) for a, b in zip(got, again, strict=True))
    return {"values": max(errors[:2]), "gradients": max(errors[2:]), "repeats": repeats}


def make_stack(batch: int, length: int):
    """The layers' weights, the input and a function that runs them all."""
    generator = torch.Generator().manual_seed(0)
    layers = [
        {
            name: weight.float().cuda().requires_grad_()
            for name, weight in random_weights(8, generator).items()
        }
        for _ in range(NUM_LAYERS)
    ]
    tokens = torch.randn(batch, length, 16, generator=generator).cuda().requires_grad_()
    mask = (torch.arange(length) >= 40).cuda()

    def stack() -> Tensor:
        stream = tokens
        for layer in layers:
            stream, _ = mamba_block(stream, **layer, mask=mask)
        return stream

    pull = torch.randn(batch, length, 16, generator=generator).cuda()
    leaves = [tokens, *(weight for layer in layers for weight in layer.values())]
    return stack, lambda: torch.autograd.grad(stack(), leaves, pull)


def time_stack(batch: int, length: int) -> dict[str, float | str]:
    """Median milliseconds of the stack: forward without gradients, and forward with backward."""
    stack, both = make_stack(batch, length)
    row = {"forward_ms": float("nan"), "both_ms": float("nan"), "error": ""}
    try:  # a variant that asks for too much of the chip must not hide the others
        with torch.no_grad():
            row["forward_ms"] = time_graph(stack)
        row["both_ms"] = time_graph(both)
    except (RuntimeError, OutOfResources) as error:
        row["error"] = str(error)
    return row


def time_graph(work, repeats: int = 40) -> float:
    """Capture `work` once and return the median milliseconds of its replays."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    times = []
    for _ in range(repeats + 5):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times[5:])


def profile_step(batch: int, length: int) -> dict[str, float]:
    """Microseconds of each kernel by name, the mean of its launches in one forward with backward."""
    _, both = make_stack(batch, length)
    both()
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        both()
        torch.cuda.synchronize()
    return {
        event.key[:40]: round(event.device_time, 1) for event in profiler.key_averages() if event.device_time
    }


if __name__ == "__main__":
    main()
