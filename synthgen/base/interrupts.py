"""Stopping a run. On a first Ctrl-C, SIGTERM or SIGHUP (its terminal was closed) the run finishes the current batch and
keeps it; on a second it stops at once. Other threads stop it by `halt`."""

from __future__ import annotations

import os
import signal
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

from synthgen.errors import SynthgenError

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_stop_requested = threading.Event()
_halt_error: SynthgenError | None = None


class Interrupted(SynthgenError):
    """The user, or the system, asked the process to stop."""

    exit_code = 130

    def __init__(
        self, message: str = "stopped; what is finished is kept, and the same command goes on from there"
    ) -> None:
        super().__init__(message)


def raise_if_stopped() -> None:
    """Raises an error if the run is to stop. Long work calls this between batches.

    Raises:
        Interrupted: a signal asked for a stop.
        SynthgenError: the error that `halt` was given.
    """
    if _halt_error:
        raise _halt_error
    if _stop_requested.is_set():
        raise Interrupted


def halt(error: SynthgenError | None) -> None:
    """Makes `raise_if_stopped` raise an error in every thread; None takes that back."""
    global _halt_error
    _halt_error = error


@contextmanager
def stoppable() -> Iterator[None]:
    """Handles the signals within the block: the first makes `raise_if_stopped` raise `Interrupted`, the second raises
    `KeyboardInterrupt`. Does nothing outside the main thread, where Python allows no handlers."""

    def stop(number: int, frame: FrameType | None) -> None:
        if _stop_requested.is_set():
            raise KeyboardInterrupt
        _stop_requested.set()
        os.write(2, b"\nstopping once this batch is finished; again to stop at once\n")

    with _handled(SIGNALS, stop) as is_handled:
        try:
            yield
        finally:
            if is_handled:
                _stop_requested.clear()


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Makes SIGTERM and SIGHUP do what Ctrl-C does at the time, within the block. By default they would end the process
    at once, and the processes that it has started would go on. Does nothing outside the main thread."""

    def end(number: int, frame: FrameType | None) -> None:
        handler = signal.getsignal(signal.SIGINT)
        if not callable(handler):  # Ctrl-C is ignored, as in the background of a script.
            raise KeyboardInterrupt
        handler(signal.SIGINT, frame)

    with _handled(SIGNALS[1:], end):
        yield


@contextmanager
def abandonable() -> Iterator[None]:
    """Makes any of the signals end the process at once, within the block. This is for libraries whose threads cannot be
    interrupted, would be waited for, and leave only whole files. Does nothing outside the main thread."""

    def leave(number: int, frame: FrameType | None) -> None:
        with suppress(OSError):
            os.write(2, f"\n{Interrupted()}\n".encode())
        os._exit(Interrupted.exit_code)

    with _handled(SIGNALS, leave):
        yield


@contextmanager
def _handled(numbers: Sequence[signal.Signals], handler: Callable[[int, FrameType | None], None]) -> Iterator[bool]:
    """Sets a handler within the block; yields whether it is set, which it is only in the main thread."""

    def handle(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:  # The shell and the kernel both send it; the second is ignored.
            signal.signal(number, signal.SIG_IGN)
            _leave_terminal()
        handler(number, frame)

    if threading.current_thread() is not threading.main_thread():
        yield False
        return
    # A signal that is ignored stays ignored, as nohup wants it. Ctrl-C does not: scripts ignore it for all processes in
    # their background.
    taken = [n for n in numbers if n == signal.SIGINT or signal.getsignal(n) != signal.SIG_IGN]
    earlier = {number: signal.signal(number, handle) for number in taken}
    try:
        yield True
    finally:
        for number, before in earlier.items():
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, before)


def _leave_terminal() -> None:
    """Redirects output from a closed terminal to nowhere, since writing to it would raise an error."""
    for descriptor in (1, 2):
        with suppress(OSError):
            if stat.S_ISCHR(os.fstat(descriptor).st_mode) and not os.isatty(descriptor):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, descriptor)
                os.close(nowhere)
