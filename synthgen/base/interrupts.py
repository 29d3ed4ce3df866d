"""Stopping a run: a first Ctrl-C (or SIGTERM, or SIGHUP, as when its terminal is closed) lets the batch in hand be
finished and kept, a second stops at once. Other threads stop it by `halt`."""

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
def stoppable() -> Iterator[None]:
    """Takes the signals over until the block ends; not outside the main thread, where Python allows no handlers."""

    def stop(number: int, frame: FrameType | None) -> None:
        if _asked.is_set():
            raise KeyboardInterrupt
        _asked.set()
        os.write(2, b"\nstopping once this batch is finished; again to stop at once\n")

    with _handled(SIGNALS, stop) as is_handled:
        try:
            yield
        finally:
            if is_handled:
                _asked.clear()


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """In it, SIGTERM and SIGHUP do what Ctrl-C does at the time: without, they would end the process at once, and leave
    behind what it has started. Not outside the main thread."""

    def end(number: int, frame: FrameType | None) -> None:
        handler = signal.getsignal(signal.SIGINT)
        if not callable(handler):  # it is ignored, as in the background of a script
            raise KeyboardInterrupt
        handler(signal.SIGINT, frame)

    with _handled(SIGNALS[1:], end):
        yield


@contextmanager
def abandonable() -> Iterator[None]:
    """In it, any of the signals ends the process where it is: for what others do in threads of theirs, which cannot be
    interrupted and would be waited for, and which leave nothing that is not whole. Not outside the main thread."""

    def leave(number: int, frame: FrameType | None) -> None:
        with suppress(OSError):
            os.write(2, f"\n{Interrupted()}\n".encode())
        os._exit(Interrupted.exit_code)

    with _handled(SIGNALS, leave):
        yield


@contextmanager
def _handled(numbers: Sequence[signal.Signals], handler: Callable[[int, FrameType | None], None]) -> Iterator[bool]:
    """-> whether the handler is set, as it is in the main thread."""

    def handle(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:  # it comes twice, from the shell and from the kernel, and is one wish
            signal.signal(number, signal.SIG_IGN)
            _leave_terminal()
        handler(number, frame)

    if threading.current_thread() is not threading.main_thread():
        yield False
        return
    # One that is ignored stays so, as nohup has it; not Ctrl-C, which scripts ignore for all in their background.
    taken = [n for n in numbers if n == signal.SIGINT or signal.getsignal(n) != signal.SIG_IGN]
    earlier = {number: signal.signal(number, handle) for number in taken}
    try:
        yield True
    finally:
        for number, before in earlier.items():
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, before)


def _leave_terminal() -> None:
    """Sends to nowhere what would be said on a terminal that is closed: to write there is an error."""
    for descriptor in (1, 2):
        with suppress(OSError):
            if stat.S_ISCHR(os.fstat(descriptor).st_mode) and not os.isatty(descriptor):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, descriptor)
                os.close(nowhere)
