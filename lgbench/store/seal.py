"""Seal a file: it holds the SHA-256 of its own bytes, so that no bit of it changes without being noticed.

A file with room for a text (metadata of parquet and of safetensors) is written with `BLANK` in it. `seal`
hashes the whole file and writes the hash over the blank's zeros; `is_sealed` zeroes them again and compares.
"""

from __future__ import annotations

import hashlib
import mmap
from pathlib import Path

_MARK = b"lgbench-seal:"
_SIZE = 64
_ZEROS = b"0" * _SIZE

BLANK = (_MARK + _ZEROS).decode()
"""The text that becomes the seal."""


class Damaged(ValueError):
    """A file is not what was written."""


def seal(path: Path) -> None:
    """Fill in the blank of a file that was just written.

    Raises:
        ValueError: the file has no blank.
    """
    with open(path, "rb+") as file:
        content = file.read()
        at = content.rfind(BLANK.encode())
        if at < 0:
            raise ValueError(f"{path} has no room for a seal")
        file.seek(at + len(_MARK))
        file.write(hashlib.sha256(content).hexdigest().encode())


def is_sealed(content: bytes | mmap.mmap) -> bool:
    """Whether a file has a seal, from its content; a seal that it has is right.

    Raises:
        Damaged: it is not: a bit of the file has changed since it was written.
    """
    at = content.rfind(_MARK)
    if at < 0:
        return False
    start, stop = at + len(_MARK), at + len(_MARK) + _SIZE
    view = memoryview(content)
    try:
        digest = hashlib.sha256(view[:start])
        digest.update(_ZEROS)
        digest.update(view[stop:])
        right = digest.hexdigest().encode() == bytes(view[start:stop])
    finally:
        view.release()
    if not right:
        raise Damaged("damaged: its checksum is not that of its content")
    return True


def file_is_sealed(path: Path) -> bool:
    """`is_sealed` of a file that may be larger than memory.

    Raises:
        Damaged: the seal is wrong, or the file is empty.
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        try:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:
            raise Damaged("damaged: it is empty") from None
        with content:
            return is_sealed(content)
