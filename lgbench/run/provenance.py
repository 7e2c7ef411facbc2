"""What a number was measured with: versions, hardware, commit."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import torch

import lgbench

PACKAGES = ("torch", "triton", "numpy", "pandas", "pyarrow", "pydantic", "safetensors", "mamba-ssm")


def environment(device: torch.device) -> dict[str, Any]:
    """Versions and hardware of this process, for `Store.write_environment`."""
    facts: dict[str, Any] = {
        "lgbench": lgbench.__version__,
        "commit": commit(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": {name: version(name) for name in PACKAGES},
        "num_threads": torch.get_num_threads(),
        "device": device.type,
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts |= {
            "gpu": properties.name,
            "gpu_bytes": properties.total_memory,
            "gpu_processors": properties.multi_processor_count,
            "cuda": torch.version.cuda,
            "tf32": torch.backends.cuda.matmul.allow_tf32,
        }
    return facts


def device_name(device: torch.device) -> str:
    """Name of the GPU, or the type of the device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


@cache
def version(package: str) -> str | None:
    """Installed version of a distribution, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


@cache
def commit() -> str:
    """Short commit of the checkout or exported archive that runs, "+" appended if modified; else ""."""
    package = Path(lgbench.__file__).resolve().parent
    root = package.parent
    if not (root / ".git").exists():
        note = package / "COMMIT"
        # `git archive` writes the commit there
        exported = note.read_text(encoding="utf-8").strip() if note.exists() else "$"
        return "" if exported.startswith("$") else exported[:12]
    try:
        head = _git(root, "rev-parse", "--short=12", "HEAD")
        return head + ("+" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, timeout=10, check=True)
    return done.stdout.decode(errors="replace").strip()
