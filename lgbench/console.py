"""Where tables and progress of a command go."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def make_console() -> Console:
    """A console; wide where nobody's window decides, so that a log shows whole cells."""
    from rich.console import Console

    narrow = os.environ.get("COLUMNS", "").isdigit() and int(os.environ["COLUMNS"]) > 0
    return Console() if sys.stdout.isatty() or narrow else Console(width=160)
