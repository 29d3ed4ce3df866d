"""Stopping a command by Ctrl-C, SIGTERM or SIGHUP, at once (`endable`). A run lets the batch in hand be finished and
kept, and stops at once for a second signal (`stoppable`); other threads stop it by `halt`."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from synthgen.errors import SynthgenError

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_asked = threading.Event()
_halted: SynthgenError | None = None


class Interrupted(SynthgenError):
    """The person, or the system, asked for an end."""

    exit_code = 130

    def __init__(
        self, words: str = "stopped; what is finished is kept, and the same command goes on from there"
    ) -> None:
        super().__init__(words)


def checkpoint() -> None:
    """Called between batches.

    Raises:
        Interrupted: an end was asked for.
        SynthgenError: what `halt` was given.
    """
    if _halted:
        raise _halted
    if _asked.is_set():
        raise Interrupted


def halt(error: SynthgenError | None) -> None:
    """Lets `checkpoint` raise an error, in whatever thread; None: no longer."""
    global _halted
    _halted = error


@contextmanager
def endable() -> Iterator[None]:
    """Until the block ends, every one of the signals raises KeyboardInterrupt, as Ctrl-C does everywhere."""
    with _handled(signal.default_int_handler, SIGNALS[1:]):
        yield


@contextmanager
def abandonable() -> Iterator[None]:
    """Until the block ends, one of the signals ends the process where it is: for what others do in threads of theirs,
    which cannot be interrupted and would be waited for, and which leave nothing that is not whole."""

    def leave(number: int, frame: FrameType | None) -> None:
        with suppress(OSError):
            os.write(2, f"\n{Interrupted()}\n".encode())
        os._exit(Interrupted.exit_code)

    with _handled(leave, SIGNALS):
        yield


@contextmanager
def stoppable() -> Iterator[None]:
    """Until the block ends, the first of the signals is `checkpoint`'s to tell."""

    def stop(number: int, frame: FrameType | None) -> None:
        if not _asked.is_set():
            _asked.set()
            with suppress(OSError):  # the terminal may be gone
                os.write(2, b"\nstopping once this batch is finished; again to stop at once\n")
        elif number != signal.SIGHUP:  # a terminal that is closed sends two: the kernel's, and the shell's
            raise KeyboardInterrupt

    try:
        with _handled(stop, SIGNALS):
            yield
    finally:
        _asked.clear()


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], Any], numbers: tuple[signal.Signals, ...]) -> Iterator[None]:
    """Does nothing outside the main thread, where Python allows no handlers. A SIGHUP that is ignored stays so: that is
    what `nohup` is for."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ignored = {signal.SIGHUP} if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else set()
    earlier = {number: signal.signal(number, handler) for number in numbers if number not in ignored}
    try:
        yield
    finally:
        for number, before in earlier.items():
            signal.signal(number, before)
