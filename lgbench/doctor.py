"""`lgbench doctor`: what this machine has, and whether each scan back end computes right numbers here."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from lgbench import provenance, registry
from lgbench.data import fetch
from lgbench.ops.selective_scan import available_backends, check_backend, resolve_backend

TOLERANCE = 1e-4
"""Largest relative error of a float32 back end against the float64 reference."""

LENGTHS = {"cpu": (1, 1537, 16_384), "cuda": (1, 1537, 131_072, 1_048_576)}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; `ok` None means: neither good nor bad."""

    what: str
    found: str
    ok: bool | None = None


def examine(data_dir: Path | None = None) -> Iterator[Finding]:
    """All findings, the slow numeric checks last."""
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
            continue
        for length in LENGTHS[device.type]:
            yield _check(name, device, length)


def _check(name: str, device: torch.device, length: int) -> Finding:
    what = f"scan {name} at {length:,}"
    try:
        error = check_backend(name, device, length)
    except Exception as problem:  # a broken kernel may fail in any way; doctor goes on
        return Finding(what, f"{type(problem).__name__}: {problem}".splitlines()[0], False)
    return Finding(what, f"relative error {error:.1e} against float64", error <= TOLERANCE)
