"""The room on a disk, and whether a folder on it can be written."""

from __future__ import annotations

import errno
import math
import shutil
from pathlib import Path
from tempfile import TemporaryFile

from synthgen.base.files import UNSUPPORTED, naming_errors


def free_bytes(folder: Path) -> float:
    """Of the disk that a folder is on, or will be; infinity where the file system does not say."""
    try:
        room = shutil.disk_usage(_standing(folder))
    except OSError as error:
        if error.errno not in {*UNSUPPORTED, errno.ENOSYS}:
            raise
        return math.inf
    return room.free if room.total else math.inf


def require_writable(folder: Path) -> None:
    """Tries to write where a folder is, or will be made; nothing is left of it.

    Raises:
        OutOfRoom: the disk is full.
        OSError: one may not.
    """
    with naming_errors(folder), TemporaryFile(dir=_standing(folder)):
        pass


def _standing(folder: Path) -> Path:
    """A folder, or the nearest one above it that there is."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    return place
