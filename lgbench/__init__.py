"""lgbench: how sequence models trained on short sequences behave on long ones, and which remedy helps."""

import importlib
from pathlib import Path
from typing import Any

__version__ = "0.1.0"

# tasks/ and methods/ are what contributors come for, so in a checkout they stand beside this package, not in
# it.
_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "pyproject.toml").is_file() and (_checkout / "tasks").is_dir():
    __path__.append(str(_checkout))

_PUBLIC = {
    "Task": "lgbench.task",
    "Method": "lgbench.method",
    "Backbone": "lgbench.backbone",
    "Probe": "lgbench.probe",
    "rows": "lgbench.api",
    "load": "lgbench.api",
}


def __getattr__(name: str) -> Any:
    """The Python API, imported when it is first used: `run`, `rows`, `load`, `Task`, `Method`, `Backbone`,
    `Probe`."""
    if name == "run":
        return importlib.import_module("lgbench.run")
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'lgbench' has no attribute '{name}'")
