"""Stopping a run: a first Ctrl-C (or SIGTERM) lets the batch in hand be finished and kept, a second stops at once.
Other threads stop it by `halt`."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from synthgen.errors import SynthgenError

SIGNALS = (signal.SIGINT, signal.SIGTERM)

_asked = threading.Event()
_halted: SynthgenError | None = None


class Interrupted(SynthgenError):
    """The person, or the system, asked for an end."""

    exit_code = 130


def checkpoint() -> None:
    """Called between batches.

    Raises:
        Interrupted: an end was asked for.
        SynthgenError: what `halt` was given.
    """
    if _halted:
        raise _halted
    if _asked.is_set():
        raise Interrupted("stopped; what is finished is kept, and the same command goes on from there")


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

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    earlier = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        yield
    finally:
        _asked.clear()
        for number, handler in earlier.items():
            signal.signal(number, handler)
