"""Paths that the user typed: what may be wrong with their spelling is dealt with here, once."""

from __future__ import annotations

import os
from pathlib import Path


def user_path(text: str | Path) -> Path:
    """Return a path with `~` resolved; as typed where no such user has a home (`~book.txt` is a file)."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)


def shown_name(path: Path) -> str:
    """Return the name of a file as text that can be stored: bytes that are no UTF-8 become U+FFFD."""
    return os.fsencode(path.name).decode("utf-8", errors="replace")
