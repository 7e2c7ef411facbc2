"""Time the selective scan alone, forward and forward with backward, with skip, gate, bias and softplus.

Every contender gets the same numbers in its own layout and is held to float64 before its time counts. On a
GPU, kernels that can be captured are also replayed from a CUDA graph, which is how training runs them.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lgbench.bench import peers
from lgbench.bench.peers import Scan, ScanInputs
from lgbench.bench.rows import Row, checked, failure, row, timed, traffic
from lgbench.bench.setting import PEERS, Setting, own_why_not, peer_why_not
from lgbench.bench.timing import Call, captured, cold_clock, interleave
from lgbench.ops.scan.selective_scan import selective_scan

ABLE = ("triton", "torch", "reference", *PEERS)
CAPTURED = ("triton", "mamba_ssm")
PARTS = ("forward", "forward+backward")
LIMITS = {torch.float32: 1e-3, torch.bfloat16: 5e-2}
"""Relative error of y, or of the gradient of x, above which a result is wrong and not merely rounded."""


@dataclass(frozen=True, slots=True)
class Case:
    """One shape."""

    batch: int
    d_inner: int
    length: int
    d_state: int
    dtype: torch.dtype = torch.float32

    @property
    def name(self) -> str:
        """In words: batch × channels × length × states, type."""
        sizes = " × ".join(f"{n:,}" for n in (self.batch, self.d_inner, self.length, self.d_state))
        return f"{sizes}, {_word(self.dtype)}"

    def bytes_moved(self, part: str) -> int:
        """Least traffic: x, Δ, z, B, C in, y out; the backward has them and ȳ in, five gradients out."""
        wide, narrow = (4, 2) if part == "forward" else (11, 6)
        return self.batch * self.length * (wide * self.d_inner + narrow * self.d_state) * self.dtype.itemsize


CASES = {
    "cuda": (
        Case(64, 32, 1537, 8),
        Case(16, 32, 16_384, 8),
        Case(1, 32, 131_072, 8),
        Case(1, 1536, 2048, 16, torch.bfloat16),
        Case(8, 1536, 2048, 16, torch.bfloat16),
        Case(1, 1536, 131_072, 16, torch.bfloat16),
    ),
    "cpu": (Case(8, 32, 2048, 8), Case(4, 128, 4096, 16)),
}


def measure(setting: Setting) -> list[Row]:
    """Rows of all shapes for this kind of device."""
    names, found = setting.split("scan", ABLE, _why_not)
    for case in CASES[setting.device.type] if names else ():
        found += measure_case(case, names, setting)
        gc.collect()
        if setting.device.type == "cuda":
            torch.cuda.empty_cache()
    return found


def measure_case(case: Case, names: list[str], setting: Setting) -> list[Row]:
    """Rows of one shape: for each part one per contender and mode."""
    setting.say(case.name)
    inputs = draw(case, setting.device)
    wanted = float64_results(inputs)
    entries = [entry for name in names for entry in _entries(name, case, inputs, wanted, setting.device)]
    clock = cold_clock(setting.device)
    for part in PARTS:
        calls = {k: e.call for k, e in enumerate(entries) if e.call is not None and e.row["part"] == part}
        for k, samples in interleave(calls, clock, setting.repeats, setting.budget_s).items():
            entries[k].row.update(_numbers(samples, case, part, setting))
    return sorted((entry.row for entry in entries), key=lambda one: one["part"])


def draw(case: Case, device: torch.device) -> ScanInputs:
    """Random arguments; Δ after bias and softplus lies about [0.001, 0.1], as when Mamba starts."""
    rng = torch.Generator(device).manual_seed(0)

    def normal(*shape: int, dtype: torch.dtype = case.dtype) -> Tensor:
        return torch.randn(*shape, generator=rng, device=device).to(dtype)

    wide, narrow = (case.batch, case.length, case.d_inner), (case.batch, case.length, case.d_state)
    step = 0.001 * 100 ** torch.rand(case.d_inner, generator=rng, device=device)
    return ScanInputs(
        x=normal(*wide),
        delta=0.5 * normal(*wide),
        A=-torch.arange(1.0, case.d_state + 1, device=device).repeat(case.d_inner, 1),
        B=normal(*narrow),
        C=normal(*narrow),
        D=normal(case.d_inner, dtype=torch.float32),
        z=normal(*wide),
        delta_bias=torch.log(torch.expm1(step)),
        weight=normal(*wide),
    )


def prepare(name: str, inputs: ScanInputs) -> Scan:
    """The two parts of a contender, one of our own or a peer."""
    if name in PEERS:
        return peers.prepare(name, inputs)

    def own(x, delta, A, B, C, D, z, delta_bias):
        return selective_scan(x, delta, A, B, C, D, z=z, delta_bias=delta_bias, softplus=True, backend=name).y

    return peers.by_autograd(own, inputs.arguments(), inputs.weight)


def float64_results(inputs: ScanInputs) -> tuple[Tensor, Tensor]:
    """y and the gradient of x of the `torch` back end in float64, which the tests hold to the definition."""
    wide = ScanInputs(*(tensor.double() for tensor in inputs))
    scan = prepare("torch", wide)
    return scan.forward(), scan.both()


def relative_error(got: Tensor, wanted: Tensor) -> float:
    """‖got − wanted‖ / ‖wanted‖."""
    return float((got.double() - wanted).norm() / wanted.norm())


class _Entry(NamedTuple):
    row: Row
    call: Call | None
    """What is timed; None if there is nothing to time."""


def _entries(
    name: str, case: Case, inputs: ScanInputs, wanted: tuple[Tensor, Tensor], device: torch.device
) -> Iterator[_Entry]:
    """A contender's parts and modes, warmed up and checked."""
    about = {
        "measure": "scan", "case": case.name, "contender": name, "batch": case.batch, "length": case.length,
        "d_inner": case.d_inner, "d_state": case.d_state, "dtype": _word(case.dtype),
    }  # fmt: skip
    try:
        scan = prepare(name, inputs)
    except Exception as error:  # of this contender
        yield _Entry(row(**about, **failure(error)), None)
        return
    modes = ("eager", "graph") if device.type == "cuda" and name in CAPTURED else ("eager",)
    for part, call, result in zip(PARTS, scan, wanted, strict=True):
        if reason := peers.not_timed(name, part, inputs):
            yield _Entry(row(**about, part=part, status="skipped", reason=reason), None)
            continue
        for mode in modes:
            one = row(**about, part=part, mode=mode)
            try:
                call()
                ready = captured(call, device) if mode == "graph" else call
                error = relative_error(ready(), result)
                yield _Entry(one | checked(error, LIMITS[case.dtype], case.length), ready)
            except Exception as error:  # of this contender
                yield _Entry(one | failure(error), None)


def _numbers(samples: list[float] | Exception, case: Case, part: str, setting: Setting) -> Row:
    if isinstance(samples, Exception):
        return failure(samples)
    numbers = timed(samples)
    rate = case.batch * case.length / numbers["median_ms"] * 1e3
    moved = traffic(case.bytes_moved(part), setting.copy_rate, numbers["median_ms"])
    return numbers | moved | {"tokens_per_s": rate}


def _why_not(name: str, device: torch.device) -> str | None:
    return (peer_why_not if name in PEERS else own_why_not)(name, device)


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
