"""Stream one very long sequence through a deep Mamba in pieces of constant memory; hold its end to float64.

bfloat16 means what it means in training: matrix products in bfloat16; residual stream, norms, Δ, A and states
in float32. Inputs are random embeddings, drawn piece by piece.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import resource
import sys
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lgbench.backbones.mamba import Mamba
from lgbench.bench import float64
from lgbench.bench.rows import Row, checked, failure, row, timed
from lgbench.bench.scan import relative_error
from lgbench.bench.setting import Setting, own_why_not
from lgbench.bench.timing import interleave, synchronise, wall_clock
from lgbench.intervention import ScanIntervention

ABLE = ("triton", "mamba_ssm", "torch")
LAST = 100
"""Outputs that are compared."""
REFERENCE_S = 60.0
"""Seconds that the float64 run may take where a contender of a case has ten; fewer in proportion."""
LIMITS = {torch.float32: 1e-3, torch.bfloat16: 5e-2}
"""Relative error above which the end of the stream is wrong and not merely rounded."""


@dataclass(frozen=True, slots=True)
class Case:
    """A model and how long it is streamed; `length` is a multiple of `piece`."""

    num_layers: int
    d_model: int
    length: int
    piece: int
    dtype: torch.dtype
    d_state: int = 16
    conv_width: int = 4

    @property
    def scan_bytes(self) -> int:
        """Least traffic of all scans: x, Δ, z, B, C read and y written once."""
        per_token = (4 * 2 * self.d_model + 2 * self.d_state) * self.dtype.itemsize
        return self.num_layers * self.length * per_token


CASES = {
    "cuda": Case(24, 768, 2**20, 2**15, torch.bfloat16),
    "cpu": Case(2, 64, 2**14, 2**12, torch.float32),
}


def measure(setting: Setting) -> list[Row]:
    """A row a back end."""
    names, found = setting.split("stream", ABLE, own_why_not)
    return found + (measure_case(CASES[setting.device.type], names, setting) if names else [])


def measure_case(case: Case, names: list[str], setting: Setting) -> list[Row]:
    """Check every back end against float64 as far as that goes, then time whole streams in turns."""
    device = setting.device
    model = make_model(case, device)
    setting.say("the float64 reference of the stream")
    reached, wanted = float64_end(model, case, device, REFERENCE_S * min(1.0, setting.budget_s / 10))
    floor_ms = matrix_products_ms(model, case, setting) + case.scan_bytes / setting.copy_rate * 1e3
    rows = {name: row(**_about(name, case), floor_ms=floor_ms, bytes_moved=case.scan_bytes) for name in names}
    calls, peaks = {}, {}
    for name in names:
        setting.say(f"{rows[name]['case']}, {name}")
        try:
            end = stream(model, case, device, name, reached)  # also the warm-up
            rows[name] |= checked(relative_error(end, wanted), LIMITS[case.dtype], reached)
            if reached < case.length:
                rows[name]["note"] = f"checked up to {reached:,} tokens, as far as float64 came in time"
        except Exception as error:  # of this contender
            rows[name] |= failure(error)
            continue

        def call(name: str = name) -> None:
            reset_peak(device)
            stream(model, case, device, name, case.length)
            peaks[name] = peak_bytes(device)

        calls[name] = call
    for name, samples in interleave(calls, wall_clock(device), setting.repeats, setting.budget_s).items():
        if isinstance(samples, Exception):
            rows[name] |= failure(samples)
            continue
        numbers = timed(samples)
        rate = case.length / numbers["median_ms"] * 1e3
        rows[name] |= numbers | {"tokens_per_s": rate, "peak_bytes": peaks[name]}
    return list(rows.values())


def make_model(case: Case, device: torch.device) -> Mamba:
    """Random weights; those of matrix products and convolutions in the case's type, the others in float32."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Mamba(
            d_model=case.d_model, num_layers=case.num_layers, d_state=case.d_state,
            conv_width=case.conv_width, init_std=case.d_model**-0.5,
        )  # fmt: skip
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv1d):
            module.to(case.dtype)
    return model.to(device).eval()


@torch.no_grad()
def stream(model: Mamba, case: Case, device: torch.device, backend: str, length: int) -> Tensor:
    """The last outputs `(1, LAST, d_model)` after `length` tokens, read in pieces with carried state."""
    model.scan_backend = backend
    narrow = case.dtype != torch.float32
    rounding = torch.autocast(device.type, dtype=case.dtype) if narrow else contextlib.nullcontext()
    state = None
    with rounding:
        for index in range(length // case.piece):
            advanced = model.advance(
                _tokens(case, device, index), mode="prefill", state=state, intervention=ScanIntervention()
            )
            state = advanced.state
    return advanced.hidden[:, -LAST:]


@torch.no_grad()
def float64_end(
    model: Mamba, case: Case, device: torch.device, within_s: float = REFERENCE_S
) -> tuple[int, Tensor]:
    """Length reached by the formulas in float64 within some seconds, and the last outputs there.

    Weights and tokens are those of the stream. The length is the whole one or a power of two of pieces.
    """
    wide = copy.deepcopy(model).double()
    pieces, carried = case.length // case.piece, None
    began = time.perf_counter()
    for index in range(pieces):
        hidden, carried = float64.advance(wide, _tokens(case, device, index).double(), carried)
        done = index + 1
        if done == pieces or done & (done - 1) == 0:
            reached, end = done * case.piece, hidden[:, -LAST:].clone()
            synchronise(device)
            if 2 * (time.perf_counter() - began) > within_s:
                break
    del wide, hidden, carried
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return reached, end


@torch.no_grad()
def matrix_products_ms(model: Mamba, case: Case, setting: Setting) -> float:
    """Milliseconds of the model's matrix products alone, over the whole length."""
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    inputs = {
        width: torch.randn(case.piece, width, device=setting.device, dtype=case.dtype)
        for width in {linear.in_features for linear in linears}
    }

    def products() -> None:
        for linear in linears:
            linear(inputs[linear.in_features])

    products()
    samples = interleave(
        {"products": products}, wall_clock(setting.device), setting.repeats, setting.budget_s
    )["products"]
    if isinstance(samples, Exception):
        raise samples
    return timed(samples)["median_ms"] * case.length / case.piece


def reset_peak(device: torch.device) -> None:
    """Begin to watch the device's memory; a CPU has no such thing."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_bytes(device: torch.device) -> int:
    """Most bytes in use on the device since `reset_peak`; on a CPU, by the process since it began."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _tokens(case: Case, device: torch.device, index: int) -> Tensor:
    """The `index`-th piece of the sequence `(1, piece, d_model)`, float32, always the same."""
    rng = torch.Generator(device).manual_seed(index)
    return torch.randn(1, case.piece, case.d_model, generator=rng, device=device)


def _about(name: str, case: Case) -> Row:
    dtype = str(case.dtype).removeprefix("torch.")
    return {
        "measure": "stream",
        "case": f"{case.num_layers} layers, d_model {case.d_model}, {dtype}, {case.length:,} tokens "
        f"in pieces of {case.piece:,}",
        "contender": name,
        "batch": 1,
        "length": case.length,
        "d_model": case.d_model,
        "d_inner": 2 * case.d_model,
        "d_state": case.d_state,
        "num_layers": case.num_layers,
        "dtype": dtype,
    }
