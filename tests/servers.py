"""Whether a Prefect server answers, and which processes are left."""

import urllib.request
from pathlib import Path


def answers(url: str) -> bool:
    """Whether the API at `url` says that it is healthy."""
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def left_behind(home: Path) -> list[str]:
    """Commands of processes that were started with this home."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(home).encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found
