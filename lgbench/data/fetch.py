"""Find a published file on this machine or download it, and never hand out one whose checksum is wrong.

Looked up in this order, each as `FOLDER/omniglot/NAME` and `FOLDER/NAME`: the folder given with `--data-dir`,
the one in `LGBENCH_DATA`, the cache (`LGBENCH_CACHE`, else the system's cache folder). Then it is downloaded
into the cache: from `LGBENCH_MIRROR/omniglot/NAME` and nowhere else where that variable is set, else from its
publisher. Without a network the attempt ends within seconds, so that a caller can fall back.
"""

import os
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pooch
import requests
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from lgbench.data import sources
from lgbench.data.paths import user_path
from lgbench.data.sources import DataFile, DataSet
from lgbench.errors import UserError
from lgbench.safe_text import plain_console

CONNECT_TIMEOUT_S = 3.0
READ_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 6.0
"""Limit on everything before the first byte: name look-up, all addresses of the host, redirects."""

_CHUNK_BYTES = 1 << 16


class DownloadError(UserError):
    """A file is nowhere on this machine and cannot be brought here; a caller may use something else."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}. {remedy}")
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class FileStatus:
    """One line of `lgbench data list`."""

    data_set: str
    file: str
    path: Path | None
    """Where it was found; None when it would have to be downloaded."""

    origin: str
    """Which place of the look-up order has it: `--data-dir`, `LGBENCH_DATA`, `cache`; empty when none has."""

    size_bytes: int
    """On disk where found, else as published."""

    licence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FileCheck:
    """One line of `lgbench data verify`."""

    data_set: str
    file: str
    path: Path
    problem: str
    """What is wrong, with both checksums; empty when the file is the published one."""


def cache_dir() -> Path:
    """The folder for downloads and decoded data; it need not exist yet."""
    return user_path(os.environ.get("LGBENCH_CACHE") or pooch.os_cache("lgbench"))


def find(name: str, data_dir: str | Path | None = None) -> Path | None:
    """Where a file is on this machine, or None. Looks at names only, not at contents.

    Raises:
        UserError: no data set has such a file, or a folder that was named does not exist.
    """
    entry, file = sources.data_file(name)
    return _locate(entry, file, data_dir)[0]


def fetch(name: str, data_dir: str | Path | None = None) -> Path:
    """A file with the published content, downloaded if it is nowhere on this machine.

    Args:
        name: file name as in `sources.DATA_SETS`.
        data_dir: folder to look into first.

    Raises:
        DownloadError: the file is nowhere and cannot be downloaded or stored.
        UserError: no such file is known; the one that was found is not the published one; a folder that was
            named does not exist.
    """
    entry, file = sources.data_file(name)
    path, origin = _locate(entry, file, data_dir)
    if path is None:
        return _download(entry, file)
    problem = _problem(path, file)
    if not problem:
        return path
    if origin != "cache":
        raise UserError(f"{problem}. Replace it by {file.url}, or remove it to have it downloaded")
    try:
        return _download(entry, file)
    except DownloadError as error:
        raise UserError(f"{problem}; and a new copy cannot be had: {error}") from error


def status(data_dir: str | Path | None = None) -> list[FileStatus]:
    """Every known file and where it is, and files that users have put there. Reads no contents.

    Raises:
        UserError: a folder that was named does not exist.
    """
    rows = []
    for entry in sources.DATA_SETS:
        for file in entry.files:
            path, origin = _locate(entry, file, data_dir)
            rows.append(
                FileStatus(
                    data_set=entry.name,
                    file=file.name,
                    path=path,
                    origin=origin,
                    size_bytes=file.size_bytes if path is None else path.stat().st_size,
                    licence=entry.licence,
                )
            )
        rows += [row for pattern in entry.local if (row := _local(entry, pattern, data_dir))]
        if entry.local and not entry.files and entry.name not in {row.data_set for row in rows}:
            names = " ".join(entry.local)
            rows.append(
                FileStatus(
                    data_set=entry.name, file=names, path=None, origin="", size_bytes=0, licence=entry.licence
                )
            )
    return rows


def _local(entry: DataSet, pattern: str, data_dir: str | Path | None) -> FileStatus | None:
    """The first folder with files of this pattern, all of them in one line."""
    for folder, origin in folders(data_dir):
        found = sorted((folder / entry.folder).glob(pattern))
        if found:
            name = found[0].name if len(found) == 1 else f"{pattern} ({len(found)} files)"
            return FileStatus(
                data_set=entry.name,
                file=name,
                path=found[0] if len(found) == 1 else found[0].parent,
                origin=origin,
                size_bytes=sum(path.stat().st_size for path in found),
                licence=entry.licence,
            )
    return None


def verify(data_dir: str | Path | None = None) -> list[FileCheck]:
    """Checksums of the files that are on this machine. Files that are nowhere have no row.

    Raises:
        UserError: a folder that was named does not exist.
    """
    rows = []
    for entry in sources.DATA_SETS:
        for file in entry.files:
            path, _ = _locate(entry, file, data_dir)
            if path is not None:
                problem = _problem(path, file)
                rows.append(FileCheck(data_set=entry.name, file=file.name, path=path, problem=problem))
    return rows


def folders(data_dir: str | Path | None = None) -> Iterator[tuple[Path, str]]:
    """Each folder that is looked into and its origin, in order; the cache, which need not exist, is last.

    Raises:
        UserError: a folder that was named does not exist.
    """
    for origin, named in (("--data-dir", data_dir), ("LGBENCH_DATA", os.environ.get("LGBENCH_DATA"))):
        if not named:
            continue
        folder = user_path(named)
        if not folder.is_dir():
            raise UserError(f"{origin} names {folder}, which is not a folder")
        yield folder, origin
    yield cache_dir(), "cache"


def _locate(entry: DataSet, file: DataFile, data_dir: str | Path | None) -> tuple[Path | None, str]:
    """Path and origin of the first match in the look-up order, or `(None, "")`."""
    for folder, origin in folders(data_dir):
        for path in (folder / entry.folder / file.name, folder / file.name):
            if path.is_file():
                return path, origin
    return None, ""


def _problem(path: Path, file: DataFile) -> str:
    """Why this is not the published file; empty if it is."""
    algorithm, _, published = file.checksum.partition(":")
    try:
        size_bytes = path.stat().st_size
        found = pooch.file_hash(str(path), alg=algorithm)
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    if found == published:
        return ""
    what = "is truncated" if size_bytes < file.size_bytes else "is not the published file"
    return (
        f"{path} {what}: {algorithm} {found}, {size_bytes:,} bytes; "
        f"published {published}, {file.size_bytes:,} bytes"
    )


def _download(entry: DataSet, file: DataFile) -> Path:
    """Download into the cache. The file appears there whole and checked, or not at all."""
    url, folder = _url(entry, file), cache_dir() / entry.folder
    pooch.get_logger().setLevel("WARNING")
    try:
        path = pooch.retrieve(
            url, known_hash=file.checksum, fname=file.name, path=folder, downloader=_stream_to_file
        )
    except requests.RequestException as error:
        raise DownloadError(f"cannot download {url}: {_reason(error)}", _remedy(entry, file)) from error
    except ValueError as error:  # how pooch reports a wrong checksum
        reason = f"{url} does not serve the published file: {str(error).rstrip('.')}"
        raise DownloadError(reason, _remedy(entry, file)) from error
    except OSError as error:
        reason = f"cannot store {file.name} in {folder}: {error.strerror or error}"
        raise DownloadError(reason, "Name another cache folder in LGBENCH_CACHE") from error
    return Path(path)


def _url(entry: DataSet, file: DataFile) -> str:
    mirror = os.environ.get("LGBENCH_MIRROR")
    if not mirror:
        return file.url
    if urlsplit(mirror).scheme not in ("http", "https"):
        raise UserError(
            f"LGBENCH_MIRROR is {mirror!r}, which is no http(s) address; a folder is named with --data-dir"
        )
    return f"{mirror.rstrip('/')}/{entry.folder}/{file.name}"


def _stream_to_file(url: str, target: str, _pooch: object) -> None:
    """Copy the body of an answer to a file, with a progress bar if someone is watching."""
    response = _first_answer(url)
    name = TextColumn("{task.description}", markup=False)
    columns = (name, BarColumn(), DownloadColumn(), TimeRemainingColumn())
    console = plain_console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as progress:
        total = int(response.headers.get("content-length", 0)) or None
        bar = progress.add_task(f"downloading {url.rsplit('/', 1)[-1]}", total=total)
        with open(target, "wb") as out:
            for chunk in response.iter_content(_CHUNK_BYTES):
                out.write(chunk)
                progress.advance(bar, len(chunk))


def _first_answer(url: str) -> requests.Response:
    """An open response with a good status.

    The limits of requests hold for each address and each redirect, and not at all for the name look-up; so
    the question is asked in a thread that is left behind when it takes too long.
    """
    outcome: list[requests.Response | Exception] = []

    def ask() -> None:
        try:
            response = requests.get(url, stream=True, timeout=(CONNECT_TIMEOUT_S, READ_TIMEOUT_S))
            response.raise_for_status()
            outcome.append(response)
        except Exception as error:  # whatever it is, the asking thread raises it
            outcome.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(ANSWER_TIMEOUT_S)
    if not outcome:
        raise requests.Timeout(f"no answer within {ANSWER_TIMEOUT_S:g} s")
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    return outcome[0]


def _reason(error: requests.RequestException) -> str:
    """What went wrong, without the address that the caller prints anyway."""
    if isinstance(error, requests.HTTPError):
        return f"the server answered {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.Timeout):
        return "no answer within a few seconds"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke off"
    if isinstance(error, requests.ConnectionError):
        wrapped = error.args[0] if error.args else error
        said = str(getattr(wrapped, "reason", wrapped)).rsplit(": ", 1)[-1]  # the system's own words
        return f"no connection, {said}"
    return f"{type(error).__name__}: {error}"


def _remedy(entry: DataSet, file: DataFile) -> str:
    return (
        f"Put {file.name} into FOLDER/{entry.folder}/ and name FOLDER with --data-dir or LGBENCH_DATA, "
        "or name a mirror in LGBENCH_MIRROR"
    )
