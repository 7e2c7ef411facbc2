"""Write the events of a run for other programs: lines of JSON (`--log-json`), TensorBoard (`--track`).

The events are those of `lgbench.run.progress`; a line of JSON has the time besides (`at`, ISO 8601, UTC).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lgbench.errors import CannotWrite, UserError
from lgbench.plan.config import RunConfig
from lgbench.run.progress import Sink


@contextmanager
def events_of(config: RunConfig) -> Iterator[list[Sink]]:
    """What takes the events that a run asks for; closed after it.

    Raises:
        CannotWrite: the file or folder cannot be written.
        UserError: TensorBoard is not installed.
    """
    with ExitStack() as stack:
        sinks: list[Sink] = []
        if config.log_json is not None:
            sinks.append(stack.enter_context(json_lines(config.log_json)))
        if config.track is not None:
            sinks.append(stack.enter_context(tensorboard(config.track)))
        yield sinks


@contextmanager
def json_lines(path: Path) -> Iterator[Sink]:
    """Append each event to a file, a line each, at once."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a", encoding="utf-8", buffering=1)
    except OSError as error:
        raise CannotWrite(f"cannot write --log-json {path}: {error.strerror}") from error

    def write(event: Mapping[str, Any]) -> None:
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        file.write(json.dumps({"at": at, **event}, ensure_ascii=False) + "\n")

    with file:
        yield write


@contextmanager
def tensorboard(folder: Path) -> Iterator[Sink]:
    """Losses and speeds of trainings by step, a curve each."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError(
            '--track needs tensorboard, which is not installed. pip install "lgbench[track]"'
        ) from None
    try:
        writer = SummaryWriter(str(folder))
    except OSError as error:
        raise CannotWrite(f"cannot write --track {folder}: {error.strerror}") from error

    def write(event: Mapping[str, Any]) -> None:
        if event["event"] == "training" and "loss" in event:
            for name in ("loss", "tokens_per_s"):
                writer.add_scalar(f"{name}/{event['name']}", event[name], event["step"])

    with writer:
        yield write
