"""Whether another process holds a lock on a file."""

from __future__ import annotations

import fcntl
from pathlib import Path


def is_locked(file: Path) -> bool | None:
    """Whether another process of this host has a lock on a file, if it is there; None where the file system, or who may
    read the file, does not let that be known."""
    try:
        with open(file, "rb") as opened:
            fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    except OSError:
        return None
    return False
