"""Ctrl-C, SIGTERM and SIGHUP: a run ends at once, or as soon as what is trained is saved.

    while trainings run      the current steps end, their states are saved, then `Interrupted`
    anywhere else            `Interrupted` where Python is at that moment
    Ctrl-C once more         at once, whatever it is that goes on, unless it comes within `ONCE_S`

A command is `watched`: a thread sees signals even while the main thread waits for a GPU or in a C function,
and ends the process when it has not ended by itself after `GRACE_S`. Nothing is lost but the time since the
last saved state, since every file of a results folder is whole at any time.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

GRACE_S = 1.5
"""Seconds that a command has to end by itself after Ctrl-C; saving may take longer."""

SAVE_S = 25.0
"""The same after SIGTERM and SIGHUP while trainings run: job schedulers wait for 30 s before they kill."""

ONCE_S = 0.5
"""Seconds in which a second Ctrl-C is the same one: `timeout` signals a process and then its whole group."""

GOES_ON = "Trainings are saved; the same command, without --force, goes on from there."

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Interrupted(KeyboardInterrupt):
    """A signal asked this process to end."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.status = 128 + signum
        """Exit status by custom of shells: 130 after Ctrl-C."""


@dataclass
class _State:
    listening: bool = False
    first: int | None = None
    """The signal that came first."""
    came_at: float = 0.0
    """When it came, by `time.monotonic`."""
    careful: int = 0
    """Blocks of `saves_first` that are open."""
    finishing: int = 0
    """Blocks of `finishing` that are open."""


_state = _State()


def asked() -> bool:
    """Whether a signal asked this process to end."""
    return _state.first is not None


def patient() -> bool:
    """Whether it was another signal than Ctrl-C, so that there is time to save."""
    return _state.first not in (None, signal.SIGINT)


def check() -> None:
    """Raise `Interrupted` if a signal came that has not ended anything yet.

    Raises:
        Interrupted: a signal came.
    """
    if _state.first is not None:
        raise Interrupted(_state.first)


@contextmanager
def listening() -> Iterator[None]:
    """Take signals for as long as the block runs; within another such block, and outside of the main thread,
    where nobody can, it does nothing. What is ignored stays ignored (`nohup`).
    """
    if _state.listening or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {signum: signal.getsignal(signum) for signum in _SIGNALS}
    _state.listening, _state.first = True, None
    try:
        for signum, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(signum, _on_signal)
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
        _state.listening, _state.first = False, None


@contextmanager
def saves_first() -> Iterator[None]:
    """A block that asks by itself (`asked`) and saves before it ends: no exception comes from outside."""
    _state.careful += 1
    try:
        yield
    finally:
        _state.careful -= 1


@contextmanager
def finishing() -> Iterator[None]:
    """A block that a watched command brings to its end, however long it takes: what is saved, is whole."""
    _state.finishing += 1
    try:
        yield
    finally:
        _state.finishing -= 1


@contextmanager
def watched() -> Iterator[None]:
    """`listening`, for a command: it ends soon whatever the main thread waits for."""
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    with receiver, sender, listening():
        signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
        thread = threading.Thread(target=_watch, args=(receiver,), name="signals", daemon=True)
        thread.start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(-1)
            sender.close()
            thread.join()


def _on_signal(signum: int, frame: object) -> None:
    again = _state.first is not None
    if not again:
        _state.first, _state.came_at = signum, time.monotonic()
    if not again and _state.careful == 0:
        raise Interrupted(signum)
    if again and signum == signal.SIGINT and time.monotonic() > _state.came_at + ONCE_S:
        raise Interrupted(signum)


def _watch(receiver: socket.socket) -> None:
    """End the process when its time is over; runs in a thread of its own."""
    first, began, end = 0, 0.0, float("inf")
    while True:
        ready, _, _ = select.select([receiver], [], [], None if not first else 0.05)
        if ready:
            came = receiver.recv(64)
            if not came:
                return
            for signum in came:
                if signum not in _SIGNALS:
                    continue
                if first and signum == signal.SIGINT and time.monotonic() > began + ONCE_S:
                    _end(signum, "ended at once, as asked. ")
                if not first:
                    first, began = signum, time.monotonic()
                    end = began + _grace(signum)
        elif time.monotonic() > end and not _state.finishing:
            _end(first, "what came after the last saved state is lost. ")


def _grace(signum: int) -> float:
    """Seconds that are left after the first signal; says that one has come where that takes a moment."""
    if not _state.careful:
        return GRACE_S
    _say("lgbench: interrupted; trainings are saved first. Ctrl-C again ends at once.")
    return GRACE_S if signum == signal.SIGINT else SAVE_S


def _end(signum: int, how: str) -> None:
    shown = "\x1b[?25h" if sys.stderr.isatty() else ""  # the cursor, which a live bar hides
    _say(f"{shown}lgbench: interrupted, {how}{GOES_ON}")
    os._exit(128 + signum)


def _say(line: str) -> None:
    with suppress(OSError):
        os.write(2, f"\n{line}\n".encode())
