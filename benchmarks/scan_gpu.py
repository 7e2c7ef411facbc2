"""Check and time the selective scan on one CUDA device, side by side with mamba-ssm.

    PYTHONPATH=. python benchmarks/scan_gpu.py --check --time --out OUT.json
    PYTHONPATH=. python benchmarks/scan_gpu.py --time --rows 0,2 --variant FORWARD_PROGRAMS=4224,SAVE_EVERY=32

`--check` (all, or a part named in `CHECKS`; parts may run side by side) compares values and gradients with a
float64 reference at lengths from 1 to 1,048,576 and at a size whose element count passes 2^31; the exit
status is 1 if an error is above its limit. `--time` measures every row of `ROWS`; each `--variant` sets
constants of `lgbench.ops.scan.triton_scan` for one more series. mamba-ssm is timed if it can be imported or
if LGBENCH_SELECTIVE_SCAN_LIB names its compiled `selective_scan_cuda` library.

Times are medians of `triton.testing.do_bench`, which empties the L2 cache before each run. "graph" is the
same work replayed from a CUDA graph over enough copies of the inputs that none is found in the cache,
without the time that Python needs to launch it. "copy" is the share of the measured copy rate, counting x,
Δ, z, B, C read and y written once in the forward.
"""

import argparse
import contextlib
import functools
import importlib.machinery
import importlib.util
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
import triton
from torch import Tensor
from triton.testing import do_bench

from lgbench.ops.scan import triton_scan as scan_triton

ROWS = [  # batch, channels, length, states, type
    (64, 32, 1537, 8, torch.float32),
    (16, 32, 16384, 8, torch.float32),
    (1, 32, 131072, 8, torch.float32),
    (1, 1536, 2048, 16, torch.bfloat16),
    (8, 1536, 2048, 16, torch.bfloat16),
    (1, 1536, 131072, 16, torch.bfloat16),
    (32, 512, 2048, 16, torch.bfloat16),
]
NAMES = ("x", "delta", "A", "B", "C", "D", "z", "h0", "delta_bias")
LIMITS = {torch.float32: 2e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}


def inputs(
    batch: int, channels: int, length: int, states: int, dtype: torch.dtype, seed: int = 0
) -> dict[str, Tensor]:
    """Random arguments of a scan as at Mamba's initialisation: softplus(Δ) log-uniform in [0.001, 0.1]."""
    torch.manual_seed(seed)
    like = dict(device="cuda", dtype=dtype)
    bias = torch.expm1(0.001 * 100 ** torch.rand(channels, device="cuda")).log()
    return dict(
        x=torch.randn(batch, length, channels, **like),
        delta=0.5 * torch.randn(batch, length, channels, **like),
        A=-torch.arange(1.0, states + 1, device="cuda").repeat(channels, 1)
        * (0.5 + torch.rand(channels, 1, device="cuda")),
        B=torch.randn(batch, length, states, **like),
        C=torch.randn(batch, length, states, **like),
        D=torch.randn(channels, device="cuda"),
        z=torch.randn(batch, length, channels, **like),
        h0=torch.randn(batch, channels, states, device="cuda"),
        delta_bias=bias,
    )


def run(arguments: dict[str, Tensor], mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The Triton scan with softplus."""
    values = {name: arguments.get(name) for name in NAMES}
    return scan_triton.scan(**values, mask=mask, softplus=True)


def reference(arguments: dict[str, Tensor], mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The scan in float64 by recursive doubling: after k rounds, row t holds what the last 2^k steps do."""
    v = {name: None if value is None else value.double() for name, value in arguments.items()}
    dt = F.softplus(v["delta"] + v["delta_bias"])
    if mask is not None:
        dt = dt * mask.expand(dt.shape[:2])[..., None]
    a = torch.exp(dt[..., None] * v["A"])
    h = (dt * v["x"])[..., None] * v["B"][:, :, None, :]
    if v.get("h0") is not None:
        h = torch.cat([h[:, :1] + a[:, :1] * v["h0"][:, None], h[:, 1:]], 1)
    shift = 1
    while shift < h.shape[1]:
        h = torch.cat([h[:, :shift], torch.addcmul(h[:, shift:], a[:, shift:], h[:, :-shift])], 1)
        a = torch.cat([a[:, :shift], a[:, shift:] * a[:, :-shift]], 1)
        shift *= 2
    y = torch.einsum("blen,bln->ble", h, v["C"])
    if v.get("D") is not None:
        y = y + v["D"] * v["x"]
    return (y if v.get("z") is None else y * F.silu(v["z"])), h[:, -1]


def relative(got: Tensor, wanted: Tensor) -> float:
    """‖got − wanted‖ / ‖wanted‖."""
    return ((got.detach().double() - wanted.detach()).norm() / wanted.detach().norm()).item()


def compare(
    label: str, arguments: dict[str, Tensor], limit: float, backward: bool = True, masked: bool = False
) -> dict:
    """Errors of values and, if asked, of all gradients against the reference."""
    batch, length, _ = arguments["x"].shape
    mask = torch.rand(batch, length, device="cuda") > 0.3 if masked else None
    errors, results = {}, []
    for function in (run, reference):
        leaves = {name: value.detach().requires_grad_(backward) for name, value in arguments.items()}
        y, state = function(leaves, mask)
        grads = ()
        if backward:
            torch.manual_seed(1)
            weights = (
                torch.randn_like(y, dtype=arguments["x"].dtype),
                torch.randn_like(state, dtype=torch.float32),
            )
            loss = (y.double() * weights[0]).sum() + (state.double() * weights[1]).sum()
            grads = torch.autograd.grad(loss, list(leaves.values()))
        results.append([y, state, *grads])
        torch.cuda.empty_cache()
    for name, got, wanted in zip(["y", "state", *("d" + n for n in arguments)], *results, strict=False):
        errors[name] = relative(got, wanted)
    worst = max(errors, key=errors.get)
    good = all(error <= limit for error in errors.values())
    print(
        f"{'ok ' if good else 'BAD'} {label:44s} worst {worst} {errors[worst]:.1e} (limit {limit:.0e})",
        flush=True,
    )
    return {"check": label, "limit": limit, "ok": good, **errors}


def check_big() -> list[dict]:
    """A million steps, and more elements than 32-bit offsets reach."""
    million = inputs(1, 16, 1_048_576, 8, torch.float32)
    record = compare("B1-E16-N8-L1048576-fp32", million, LIMITS[torch.float32], backward=False)
    del million
    torch.cuda.empty_cache()
    return [record, check_offsets()]


def check_lengths(dtype: torch.dtype) -> list[dict]:
    """Short and long, in one type; long also where the state hardly decays."""
    records = []
    for length in (131072, 16384, 1537, 63, 2, 1):
        arguments = inputs(1 if length > 20000 else 2, 32, length, 8, dtype)
        records.append(compare(f"E32-N8-L{length}-{dtype}", arguments, LIMITS[dtype]))
    slow = inputs(1, 32, 131072, 8, dtype)
    slow["A"] = slow["A"] * 1e-4
    records.append(compare(f"E32-N8-L131072-{dtype}-slow decay", slow, 5 * LIMITS[dtype], backward=False))
    return records


def check_masked() -> list[dict]:
    """A time mask, and channels that do not fill a block, in every type."""
    records = []
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        label = f"B3-E72-N16-L1537-{dtype}-masked"
        records.append(compare(label, inputs(3, 72, 1537, 16, dtype), LIMITS[dtype], masked=True))
    return records


def check_lanes() -> list[dict]:
    """Channels enough that several lanes share one, with and without a mask and all arguments."""
    few = {k: v for k, v in inputs(8, 1056, 333, 16, torch.bfloat16).items() if k not in ("D", "z", "h0")}
    return [
        compare(
            f"B8-E{channels}-N16-L333-bf16-{word}", values, LIMITS[torch.bfloat16], masked=word == "masked"
        )
        for channels, values, word in (
            (1032, inputs(8, 1032, 333, 16, torch.bfloat16), "masked"),
            (1056, few, "no D, z, h0"),
        )
    ]


def check_rest() -> list[dict]:
    """States that fill no power of two, missing arguments, and the same bits twice."""
    bare = {k: v for k, v in inputs(2, 40, 777, 5, torch.float32).items() if k not in ("D", "z", "h0")}
    return [compare("B2-E40-N5-L777-fp32-no D, z, h0", bare, LIMITS[torch.float32]), check_determinism()]


CHECKS = {
    "big": check_big,
    "float32": lambda: check_lengths(torch.float32),
    "bfloat16": lambda: check_lengths(torch.bfloat16),
    "masked": check_masked,
    "lanes": check_lanes,
    "rest": check_rest,
}


def check_offsets() -> dict:
    """2.25 · 10^9 elements in each of x, Δ, y: three channels against float64, with the gradients of x, Δ."""
    length, channels, states, chosen = 2_200_000, 1024, 4, [0, 500, 1023]
    like = dict(device="cuda", dtype=torch.bfloat16)
    torch.manual_seed(2)
    big = dict(
        x=torch.randn(1, length, channels, **like), delta=torch.randn(1, length, channels, **like),
        A=-torch.rand(channels, states, device="cuda") - 0.1, B=torch.randn(1, length, states, **like),
        C=torch.randn(1, length, states, **like), delta_bias=torch.full((channels,), -4.0, device="cuda"),
    )  # fmt: skip
    leaves = {name: value.requires_grad_(name in ("x", "delta")) for name, value in big.items()}
    y, state = run(leaves)
    weight = torch.randn(1, length, channels, **like)
    dx, ddelta = torch.autograd.grad(y, [leaves["x"], leaves["delta"]], weight)
    got = [v[..., chosen].clone() for v in (y, dx, ddelta)] + [state[:, chosen].clone()]
    part = {
        k: v.detach()[..., chosen].clone() if k in ("x", "delta", "delta_bias") else v.detach()
        for k, v in big.items()
    }
    part["A"], weight = big["A"].detach()[chosen].clone(), weight[..., chosen].clone()
    del y, state, dx, ddelta, leaves, big
    torch.cuda.empty_cache()
    part["x"].requires_grad_()
    part["delta"].requires_grad_()
    y, state = reference(part)
    wanted = [y, *torch.autograd.grad(y, [part["x"], part["delta"]], weight.double()), state]
    errors = {n: relative(a, b) for n, a, b in zip(("y", "dx", "ddelta", "state"), got, wanted, strict=True)}
    last = relative(got[0][:, -1000:], wanted[0][:, -1000:])
    good = max(*errors.values(), last) <= LIMITS[torch.bfloat16]
    print(
        f"{'ok ' if good else 'BAD'} past 2^31 elements: {errors}, last 1000 outputs {last:.1e}", flush=True
    )
    return {"check": "2^31", "ok": good, "last": last, **errors}


def check_determinism() -> dict:
    """Two runs of forward and backward give the same bits."""
    runs = []
    for _ in range(2):
        leaves = {k: v.requires_grad_() for k, v in inputs(2, 96, 5000, 16, torch.float32).items()}
        y, state = run(leaves)
        runs.append([y, state, *torch.autograd.grad(y.sum() + state.sum(), list(leaves.values()))])
    good = all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
    print(f"{'ok ' if good else 'BAD'} two runs give the same bits", flush=True)
    return {"check": "determinism", "ok": good}


def copy_rate() -> float:
    """Bytes per second that a large device copy reads and writes."""
    source = torch.randn(512 * 2**20, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() * 4 / (do_bench(lambda: target.copy_(source), return_mode="median") * 1e-3)


def time_graph(make: Callable[[int], Callable[[], object]], copies: int) -> float:
    """Milliseconds of one call, from a CUDA graph of `copies` calls on different inputs."""
    calls = [make(i) for i in range(copies)]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        calls[0]()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            for call in calls:
                call()
    torch.cuda.current_stream().wait_stream(stream)
    events = [torch.cuda.Event(enable_timing=True) for _ in range(16)]
    graph.replay()
    for event in events:
        event.record()
        graph.replay()
    torch.cuda.synchronize()
    times = sorted(a.elapsed_time(b) for a, b in itertools.pairwise(events))
    return times[len(times) // 2] / copies


def forward_call(row: tuple, seed: int) -> Callable[[], object]:
    """The forward without gradients, on its own inputs."""
    arguments = inputs(*row, seed=seed)
    del arguments["h0"]

    def call():
        with torch.no_grad():
            return run(arguments)

    return call


def training_call(row: tuple, seed: int) -> Callable[[], object]:
    """Forward and backward with the gradients of all arguments."""
    leaves = {k: v.requires_grad_() for k, v in inputs(*row, seed=seed).items() if k != "h0"}
    weight = torch.randn_like(leaves["x"])
    return lambda: torch.autograd.grad(run(leaves)[0], list(leaves.values()), weight)


def mamba_calls(row: tuple, module) -> tuple[Callable, Callable]:
    """Forward, and forward with backward, of mamba-ssm's compiled scan in its own layout (B, E, L)."""
    v = inputs(*row)
    u, delta, z, B, C = (v[name].transpose(1, 2).contiguous() for name in ("x", "delta", "z", "B", "C"))
    B, C, weight = B[:, None], C[:, None], torch.randn_like(u)

    def forward():
        return module.fwd(u, delta, v["A"], B, C, v["D"], z, v["delta_bias"], True)

    def both():
        out, states, _ = forward()
        return module.bwd(
            u, delta, v["A"], B, C, v["D"], z, v["delta_bias"], weight, states, out, None, True, False
        )

    return forward, both


def load_mamba():
    """mamba-ssm's extension module, or None with the reason printed."""
    path = os.environ.get("LGBENCH_SELECTIVE_SCAN_LIB")
    try:
        if path:
            loader = importlib.machinery.ExtensionFileLoader("selective_scan_cuda", path)
            module = importlib.util.module_from_spec(
                importlib.util.spec_from_loader("selective_scan_cuda", loader)
            )
            loader.exec_module(module)
            return module
        import selective_scan_cuda

        return selective_scan_cuda
    except Exception as error:  # any failure of a foreign library only costs its column
        print(f"mamba-ssm is not timed: {type(error).__name__}: {error}")
        return None


def time_rows(rows: list[tuple], variants: list[dict], graphs: bool, backward: bool) -> list[dict]:
    """Median times of every row: each variant of the Triton scan, then mamba-ssm."""
    rate, module, records = copy_rate(), load_mamba(), []
    print(f"copy rate {rate / 1e12:.2f} TB/s", flush=True)
    for row in rows:
        batch, channels, length, states, dtype = row
        moved = batch * length * (4 * channels + 2 * states) * dtype.itemsize
        train = backward and length * channels < 1e8
        base = {"row": f"{batch}x{channels}x{length}x{states}-{str(dtype)[6:]}", "copy_rate": rate}
        timers = [functools.partial(time_variant, row, variant, graphs, train) for variant in variants]
        if module is not None:
            timers.append(functools.partial(time_mamba, row, module, train))
        for timer in timers:
            record = {**base, **timer()}
            record["copy_share"] = moved / rate / (record["forward_ms"] * 1e-3)
            print(describe(record), flush=True)
            records.append(record)
        torch.cuda.empty_cache()
    return records


def time_mamba(row: tuple, module, train: bool) -> dict:
    """Times of one row with mamba-ssm's extension called directly, without its Python around it."""
    forward, both = mamba_calls(row, module)
    record = {"back_end": "mamba_ssm", "forward_ms": do_bench(forward, return_mode="median")}
    if train:
        record["training_ms"] = do_bench(both, return_mode="median")
    return record


@contextlib.contextmanager
def constants(variant: dict) -> Iterator[None]:
    """Some constants of the Triton scan replaced for a while."""
    before = {name: getattr(scan_triton, name) for name in variant}
    try:
        for name, value in variant.items():
            setattr(scan_triton, name, value)
        scan_triton.plan.cache_clear()
        yield
    finally:
        for name, value in before.items():
            setattr(scan_triton, name, value)
        scan_triton.plan.cache_clear()


def time_variant(row: tuple, variant: dict, graphs: bool, train: bool) -> dict:
    """Times of one row with some constants of the Triton scan replaced."""
    record = {"back_end": "triton " + ",".join(f"{k}={v}" for k, v in variant.items())}
    copies = max(2, min(16, int(2e8 / (row[0] * row[1] * row[2] * 4 * row[4].itemsize)) + 1))
    with constants(variant):
        record["forward_ms"] = do_bench(forward_call(row, 0), return_mode="median")
        if graphs:
            record["forward_graph_ms"] = time_graph(lambda i: forward_call(row, i), copies)
        if train:
            record["training_ms"] = do_bench(training_call(row, 0), return_mode="median")
            if graphs:
                record["training_graph_ms"] = time_graph(lambda i: training_call(row, i), copies)
    return record


def describe(record: dict) -> str:
    """One line of the table."""
    numbers = [record.get(k) for k in ("forward_ms", "forward_graph_ms", "training_ms", "training_graph_ms")]
    shown = " ".join(f"{n:8.4f}" if n else "       -" for n in numbers)
    return f"{record['row']:28s} {record['copy_share']:5.1%} {shown}  {record['back_end']}"


def parse_variant(text: str) -> dict:
    """'A=1,B=None' as a dictionary."""
    return {
        k: None if v == "None" else int(v) for k, v in (pair.split("=") for pair in text.split(",") if pair)
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--check", nargs="?", const="all", choices=["all", *CHECKS], help="compare with float64"
    )
    parser.add_argument("--time", action="store_true", help="measure the rows")
    parser.add_argument("--rows", default=",".join(map(str, range(len(ROWS)))), help="indices into ROWS")
    parser.add_argument(
        "--variant", action="append", default=[], help="constants of scan_triton, NAME=VALUE,..."
    )
    parser.add_argument("--no-graphs", action="store_true", help="only the eager times")
    parser.add_argument("--forward-only", action="store_true", help="no backward times")
    parser.add_argument("--warm", action="store_true", help="compile what --time needs, and measure nothing")
    parser.add_argument("--out", help="JSON file for all records")
    options = parser.parse_args()
    print(torch.cuda.get_device_name(), "torch", torch.__version__, "triton", triton.__version__, flush=True)
    parts = CHECKS if options.check == "all" else [options.check] if options.check else []
    records = [record for part in parts for record in CHECKS[part]()]
    if options.time or options.warm:
        rows = [ROWS[int(i)] for i in options.rows.split(",")]
        variants = [parse_variant(text) for text in options.variant]
        if not (options.warm and variants):
            variants.insert(0, {})
        if options.warm:
            for row in rows:
                for variant in variants:
                    with constants(variant):
                        forward_call(row, 0)()
                        training_call(row, 0)()
            return 0
        timed = time_rows(rows, variants, not options.no_graphs, not options.forward_only)
        print("\nrow                          copy  forward    graph  training   graph (ms)  back end")
        print("\n".join(map(describe, timed)))
        records += timed
    if options.out:
        with open(options.out, "w") as file:
            json.dump(records, file, indent=1, default=str)
    return 0 if all(record.get("ok", True) for record in records) else 1


if __name__ == "__main__":
    sys.exit(main())
