"""Processes that are known by more than their number, which the system gives to another process later."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

END_SECONDS = 10.0  # for a process to end by itself, before it is killed


def identity(pid: int) -> list[str]:
    """The number of a process and when it started, as records keep it. Without the second entry if the process is gone,
    or if this machine cannot tell."""
    return [str(pid), *filter(None, [_started(pid)])]


def is_alive(known: list[str]) -> bool:
    """Whether the process of an `identity` still runs. False for a record of another form, as of an older version."""
    return len(known) == 2 and identity(int(known[0])) == known


def end(pid: int, is_alive: Callable[[], bool]) -> None:
    """Ends a process and its group: by SIGTERM, and by SIGKILL if it takes longer than `END_SECONDS`."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, number)
        deadline = time.monotonic() + END_SECONDS
        while time.monotonic() < deadline:
            if not is_alive():
                return
            time.sleep(0.05)


def _started(pid: int) -> str:
    """When a process started, in words that no time zone changes; "" if it is gone, or if nothing here can say."""
    if Path("/proc/self/stat").exists():
        try:
            # The name, in parentheses, may have any character in it. The 22nd field is the 20th after it.
            ticks = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[19]
            return f"{ticks} ticks after boot {Path('/proc/sys/kernel/random/boot_id').read_text().strip()}"
        except (OSError, IndexError):
            return ""
    environment = {**os.environ, "TZ": "UTC", "LC_ALL": "C"}
    command = ["ps", "-o", "lstart=", "-p", str(pid)]
    with suppress(OSError):  # Some systems have no ps.
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment).stdout.strip()
    return ""
