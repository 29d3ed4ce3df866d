"""The room on a disk, and whether a folder on it can be written."""

from __future__ import annotations

import errno
import math
import shutil
from pathlib import Path
from tempfile import TemporaryFile

from synthgen.base.files import UNSUPPORTED, naming_errors


def free_bytes(folder: Path) -> float:
    """The free bytes on the disk of a folder, which need not exist yet; infinity where the file system reports none."""
    try:
        room = shutil.disk_usage(_nearest_existing(folder))
    except OSError as error:
        if error.errno not in {*UNSUPPORTED, errno.ENOSYS}:
            raise
        return math.inf
    return room.free if room.total else math.inf


def require_writable(folder: Path) -> None:
    """Writes a file in a folder, or above it if it does not exist yet, and removes the file again.

    Raises:
        OutOfRoom: the disk is full.
        OSError: this process may not write there.
    """
    with naming_errors(folder), TemporaryFile(dir=_nearest_existing(folder)):
        pass


def _nearest_existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder
