"""Whether another process holds a lock on a file."""

from __future__ import annotations

import fcntl
from pathlib import Path


def is_locked(file: Path) -> bool | None:
    """Whether another process of this host holds a lock on a file; False if there is no such file.

    None where the file system has no locks, or this process may not read the file.
    """
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
