"""What an exception of a cell means: its status and its reason, whatever code raised it."""

from __future__ import annotations

import gc
import traceback

import torch

from lgbench.errors import UserError

ALLOCATION = (
    "can't allocate memory",  # PyTorch on a CPU under Linux
    "not enough memory",  # and elsewhere
    "bad_alloc",
    "CUDA out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
"""Parts of the messages of failed allocations that are no `MemoryError`."""

ANY = (Exception, SystemExit)
"""What the code of a plugin may end with; a signal (`KeyboardInterrupt`) is not its own."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on a GPU or a CPU."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(part in message(error) for part in ALLOCATION)


def describe(error: BaseException) -> tuple[str, str]:
    """Status and reason of an exception inside a cell: the traceback, or one line that needs none."""
    if isinstance(error, UserError):
        return "failed", " ".join(message(error).split()) or "refused without a word"
    memory = is_out_of_memory(error) or (error.__cause__ is not None and is_out_of_memory(error.__cause__))
    status = "out_of_memory" if memory else "failed"
    return status, writable("".join(traceback.format_exception(error)))


def one_line(error: BaseException) -> str:
    """An exception in one line with its kind: the last line of its traceback."""
    return last_line(describe(error)[1])


def last_line(reason: str) -> str:
    """The last line of a reason, which a row has; never empty."""
    return next(iter(reversed(reason.strip().splitlines())), "") or "no reason was given"


def message(error: BaseException) -> str:
    """What an exception says, even where its own code for that fails."""
    try:
        return writable(str(error))
    except Exception:
        return f"{type(error).__name__}, whose message cannot be made"


def writable(text: str) -> str:
    """The text with what no UTF-8 file can hold (lone surrogates) as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def free_memory() -> None:
    """Give back what a failed attempt held, so that a smaller one finds room."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
