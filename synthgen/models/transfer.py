"""A file that is received: into a partial file beside its place, which a later download goes on with."""

from __future__ import annotations

import fcntl
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BufferedRandom
from pathlib import Path

from synthgen.base.disk import free_bytes
from synthgen.errors import OutOfRoom

TIMEOUT_SECONDS = 60.0  # the longest silence of a server
QUIET_SECONDS = 3600.0  # a file that has not changed for this long has no writer any more
BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a download is, in bytes: what is here, what there is in all, and what has come over the network since
    the command began; earlier downloads may have left some."""

    here: int
    total: int
    received: int


Report = Callable[[Progress], None]  # called whenever bytes have come, from any thread, by one at a time


@contextmanager
def alone(part: Path) -> Iterator[BufferedRandom]:
    """Opens the partial file and locks it; waits if another process holds the lock."""
    while True:
        file = open(part, "a+b")  # noqa: SIM115
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"{part.parent}: another process is fetching the same; waiting for it", file=sys.stderr)
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError:  # a file system without locks: if two processes write, the checksum will show it
                pass
            if _is_at(file, part):  # otherwise the other process has renamed or removed it
                yield file
                return
        finally:
            with suppress(OSError):  # finished data has been synced; on a full disk, closing repeats the same error
                file.close()


def _is_at(file: BufferedRandom, path: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    return False


def require_room(folder: Path, size: int) -> None:
    """Raises: OutOfRoom: the folder's disk has less than `size` bytes free."""
    if (free := free_bytes(folder)) < size:
        raise OutOfRoom(
            f"the download needs {size / 1e9:.1f} GB, and {folder} has {free / 1e9:.1f} GB free; free some and run the "
            "same command again"
        )


def is_quiet(file: Path) -> bool:
    """Whether nobody has written into a file for long."""
    with suppress(FileNotFoundError):
        return time.time() - file.stat().st_mtime > QUIET_SECONDS
    return False
