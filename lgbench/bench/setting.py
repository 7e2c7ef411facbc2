"""Who takes part: our own back ends of the scan and the public implementations beside them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from lgbench.bench.rows import Row, row
from lgbench.errors import UserError
from lgbench.ops.scan.selective_scan import BACKENDS, available_backends

PEERS = {
    "mamba_ssm": "selective_scan_cuda",
    "mambapy": "mambapy.pscan",
    "transformers": "transformers.models.mamba.modeling_mamba",
    "fla": "fla.ops.gla",
}
"""Public implementations of the scan, and the module that each is found in."""
CONTENDERS = ("block", *(name for name in BACKENDS if name not in PEERS), *PEERS)
"""`block` is the fused Mamba block, which takes part where whole models run."""
ON_REQUEST = ("reference", "transformers")
"""Loops over tokens in Python, which take minutes."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What all measures of one run share."""

    device: torch.device
    contenders: tuple[str, ...]
    repeats: int
    budget_s: float
    copy_rate: float
    """Bytes per second."""
    say: Callable[[str], None] = lambda case: None
    """Called with the name of each case before it is measured."""

    def split(
        self, measure: str, able: Sequence[str], why_not: Callable[[str, torch.device], str | None]
    ) -> tuple[list[str], list[Row]]:
        """The contenders that can run a measure here, and a row for each of the others.

        Args:
            measure: its name.
            able: contenders that the measure knows.
            why_not: why a contender cannot run on a device, or None.
        """
        asked = [name for name in able if name in self.contenders]
        reasons = {name: why_not(name, self.device) for name in asked}
        lacking = [
            row(measure=measure, contender=name, status="unavailable", reason=reason)
            for name, reason in reasons.items()
            if reason is not None
        ]
        return [name for name in asked if reasons[name] is None], lacking


def choose_contenders(names: Sequence[str]) -> tuple[str, ...]:
    """The contenders of these names; without any, all but those that go token by token, which take minutes.

    Raises:
        UserError: there is no such contender.
    """
    for name in names:
        if name not in CONTENDERS:
            raise UserError(f"lgbench bench has no back end '{name}'. Known: {', '.join(CONTENDERS)}")
    return tuple(names) or tuple(name for name in CONTENDERS if name not in ON_REQUEST)


def own_why_not(name: str, device: torch.device) -> str | None:
    """Why one of our back ends cannot be timed on a device; None if it can."""
    if name in ("torch", "reference"):
        return None
    if device.type != "cuda":
        return "it needs a CUDA device"  # Triton's interpreter is there for tests
    return available_backends()["triton" if name == "block" else name]


def peer_why_not(name: str, device: torch.device) -> str | None:
    """Why a public implementation cannot be timed on a device; None if it can."""
    if name in ("mamba_ssm", "fla") and device.type != "cuda":
        return "it needs a CUDA device"
    try:
        importlib.import_module(PEERS[name])
    except Exception as error:  # foreign packages fail in many ways; the reason is what the reader needs
        return f"cannot import {PEERS[name]} ({type(error).__name__}: {error})".splitlines()[0]
    return None
