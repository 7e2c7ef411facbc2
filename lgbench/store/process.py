"""Which process is it, and does it live still: for what a killed one leaves behind."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any


def identity() -> dict[str, Any]:
    """This process: machine (since its start), number, and when the machine started it."""
    pid = os.getpid()
    return {"host": platform.node(), "machine": _machine(), "pid": pid, "began": _began(pid)}


def gone(facts: Mapping[str, Any]) -> bool:
    """Whether the process with this identity was on this machine and exists no longer; False if in doubt."""
    if not facts.get("machine") or facts["machine"] != _machine():
        return False
    return bool(_began(facts["pid"]) != facts["began"])


def mark() -> str:
    """This process in a part of a file name, without dots; `gone_by_mark` reads it."""
    pid = os.getpid()
    return f"{_machine() or 'unknown'}-{pid}-{_began(pid) or 0}"


def gone_by_mark(text: str) -> bool:
    """Whether the process with this mark was on this machine and exists no longer; False if in doubt."""
    machine, _, rest = text.partition("-")
    pid, _, began = rest.partition("-")
    if not (pid.isdigit() and began.isdigit()):
        return False
    return gone({"machine": machine, "pid": int(pid), "began": began})


@cache
def _machine() -> str:
    """This start of this machine and of this container, 8 hex digits; empty where the system has no word."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        space = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return ""
    return hashlib.sha256(f"{boot} {space}".encode()).hexdigest()[:8]


def _began(pid: int) -> str:
    """Clock ticks from the machine's start to the process's; empty if there is none, or only its remains."""
    try:
        fields = (
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        )
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
