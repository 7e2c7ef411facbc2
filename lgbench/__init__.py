"""lgbench: how sequence models trained on short sequences behave on long ones, and which remedy helps."""

from pathlib import Path

__version__ = "0.1.0"

# tasks/ and methods/ are what contributors come for, so in a checkout they stand beside this package, not in
# it.
_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "pyproject.toml").is_file() and (_checkout / "tasks").is_dir():
    __path__.append(str(_checkout))
