"""`lgbench doctor`: what this machine has, and whether each scan back end computes right numbers here."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from lgbench.data import fetch
from lgbench.ops.block.mamba_block import check_block
from lgbench.ops.scan.selective_scan import available_backends, check_backend, resolve_backend
from lgbench.plugins import registry
from lgbench.run import provenance

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 1e-2}
"""Largest relative error against the float64 reference; bfloat16 outputs are rounded to 2^-9."""

LENGTHS = {"cpu": (1, 1537), "cuda": (1, 1537)}
LONG = {"cpu": (16_384,), "cuda": (131_072, 1_048_576)}
"""Lengths of the thorough checks; their float64 reference goes token by token and takes minutes."""

LARGE = {"channels": {"cpu": 16, "cuda": 8192}, "length": 1537}
"""The scan of language models, 16 states in bfloat16, for which back ends have kernels of their own."""

PLAIN = ("torch", "reference")
"""Back ends without kernels of their own."""

BLOCK_LENGTHS, LONG_BLOCK = (1537,), (131_072,)


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; `ok` None means: neither good nor bad."""

    what: str
    found: str
    ok: bool | None = None


def examine(
    data_dir: Path | None = None, thorough: bool = False, on_check: Callable[[str], None] = lambda what: None
) -> Iterator[Finding]:
    """All findings, the slow numeric checks last.

    Args:
        data_dir: folder with data files, looked into first.
        thorough: also check numbers at the lengths of `LONG`.
        on_check: called with the name of each numeric check before it runs.
    """
    yield Finding("Python", platform.python_version())
    for package in provenance.PACKAGES:
        yield Finding(package, provenance.version(package) or "not installed")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory / 2**30
        yield Finding(
            "CUDA", f"{torch.version.cuda}, {provenance.device_name(device)}, {memory:.0f} GiB", True
        )
    else:
        yield Finding("CUDA", "not available; runs use the CPU")
    yield _launches()
    for kind, plugins in (("task", registry.TASKS), ("method", registry.METHODS)):
        for name in plugins.names():
            if problem := plugins.problem(name):
                yield Finding(f"{kind} {name}", problem, False)
    for row in fetch.status(data_dir):
        yield Finding(f"data {row.file}", str(row.path) if row.path else "not here; see: lgbench data fetch")
    yield Finding("scan back end that auto picks", resolve_backend("auto", device))
    for name, reason in available_backends().items():
        if reason is not None:
            yield Finding(f"scan {name}", reason)
    for what, dtype, measure in _checks(device, thorough):
        on_check(what)
        yield _check(what, dtype, measure)


def _checks(device: torch.device, thorough: bool) -> Iterator[tuple[str, torch.dtype, Callable[[], float]]]:
    """Name, type and relative error of every numeric check on a device."""
    lengths = LENGTHS[device.type] + (LONG[device.type] if thorough else ())
    channels, dtype = LARGE["channels"][device.type], torch.bfloat16
    for name in (name for name, reason in available_backends().items() if reason is None):
        for length in lengths:
            yield f"scan {name} at {length:,}", torch.float32, partial(check_backend, name, device, length)
        if not thorough and name in PLAIN:
            continue
        large = partial(check_backend, channels=channels, d_state=16, dtype=dtype)
        what = f"scan {name} at {LARGE['length']:,}, bf16, {channels:,} × 16"
        yield what, dtype, partial(large, name, device, LARGE["length"])
    if device.type == "cuda":
        for length in BLOCK_LENGTHS + (LONG_BLOCK if thorough else ()):
            yield f"fused block at {length:,}", torch.float32, partial(check_block, device, length)


def _launches() -> Finding:
    """Whether short calls of kernels skip Triton's own look-up."""
    try:
        from lgbench.ops.launch import DIRECT, launches_directly
    except ImportError as error:
        return Finding("kernel launches", f"no kernels: {error}", False)
    if launches_directly():
        return Finding("kernel launches", "direct", True)
    tested = " and ".join(version.rstrip(".") for version in DIRECT)
    return Finding(
        "kernel launches",
        f"looked up each time, at about half the speed of short calls: direct ones are tested with Triton "
        f"{tested}, this is {provenance.version('triton')}",
    )


def _check(what: str, dtype: torch.dtype, measure: Callable[[], float]) -> Finding:
    try:
        error = measure()
    except Exception as problem:  # a broken kernel may fail in any way; doctor goes on
        return Finding(what, f"{type(problem).__name__}: {problem}".splitlines()[0], False)
    return Finding(what, f"relative error {error:.1e} against float64", error <= TOLERANCE[dtype])
