"""Write files that others read: whole or not there."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lgbench.errors import CannotWrite
from lgbench.store.process import gone_by_mark, mark

_UMASK = os.umask(0o077)
os.umask(_UMASK)  # asking for it changes it


@contextlib.contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """A temporary path in the target's folder that becomes the target if the block succeeds, and is gone if
    not.

    Raises:
        CannotWrite: the folder cannot be made or written, or the disk is full.
    """
    temporary = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.{mark()}.")
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        with contextlib.suppress(OSError):  # some shared folders refuse, and have rights of their own
            temporary.chmod(0o666 & ~_UMASK)
        os.replace(temporary, target)
    except OSError as error:
        raise CannotWrite(
            f"cannot write {target}: {error.strerror or error}. Nothing half-written was left."
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def collect_temporary(root: Path) -> list[Path]:
    """Remove the temporary files that killed processes of this machine left in a folder; which they were."""
    left = [path for path in Path(root).rglob(".*") if _is_left(path)]
    for path in left:
        path.unlink(missing_ok=True)
    return left


def _is_left(path: Path) -> bool:
    """Whether this is a temporary file `.NAME.MARK.RANDOM` whose process is gone."""
    words = path.name.split(".")
    return len(words) > 3 and gone_by_mark(words[-2]) and path.is_file()


def put_aside(path: Path) -> Path:
    """Rename a damaged file to `NAME.damaged`, so that it can be made again and still be looked at.

    Raises:
        CannotWrite: its folder cannot be written.
    """
    target = path.with_name(f"{path.name}.damaged")
    try:
        os.replace(path, target)
    except OSError as error:
        raise CannotWrite(f"cannot put the damaged file {path} aside: {error.strerror or error}") from error
    return target
