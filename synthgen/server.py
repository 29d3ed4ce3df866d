"""A Prefect server of our own, for as long as a flow runs, where the user has none.

Prefect can start one by itself, but in our process group: a Ctrl-C would end it before the flow could say how it ended,
and a kill would leave it behind for ever. This one has a group of its own, and is recorded: the next run ends what a
killed one left.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from synthgen.errors import SynthgenError
from synthgen.models import cache_folder

START_SECONDS = 180.0  # a busy laptop needs more than the 20 s that Prefect allows


class ServerError(SynthgenError):
    """Prefect's server could not be started."""

    exit_code = 1


@contextmanager
def embedded_server() -> Iterator[str]:
    """Starts a server, and ends it with the block; -> its API's URL.

    Raises:
        ServerError: it ended at once, or did not answer in time; says what it printed last.
    """
    home = Path(os.environ.get("PREFECT_HOME", cache_folder() / "prefect"))
    home.mkdir(parents=True, exist_ok=True)
    _end_left_behind(home)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    log = home / "server.log"
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--no-services", "--no-ui", "--analytics-off", "--log-level", "ERROR"]
    environment = {**os.environ, "PREFECT_HOME": str(home), "DO_NOT_TRACK": "1"}
    with open(log, "wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, start_new_session=True
        )
    record = home / f"server-{process.pid}.json"
    record.write_text(json.dumps({"server": _identity(process.pid), "owner": _identity(os.getpid())}))
    try:
        url = f"http://127.0.0.1:{port}/api"
        _wait(process, url, log)
        yield url
    finally:
        _end(process.pid)
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        record.unlink(missing_ok=True)


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        with suppress(urllib.error.URLError, OSError), urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
            if answer.status == 200:
                return
        ended = process.poll() is not None
        if ended or time.monotonic() > deadline:
            lines = log.read_text(errors="replace").strip().splitlines()
            state = f"ended with {process.returncode}" if ended else f"did not answer in {START_SECONDS:.0f} s"
            raise ServerError(f"Prefect's server {state}: {lines[-1] if lines else 'no word'} (more in {log})")
        time.sleep(0.1)


def _identity(pid: int) -> list[str]:
    """A process that still is the one it was: its number and when it started, or no second entry if it is gone."""
    shown = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return [str(pid), *filter(None, [shown.strip()])]


def _is_alive(known: list[str]) -> bool:
    return len(known) == 2 and _identity(int(known[0])) == known


def _end_left_behind(home: Path) -> None:
    """Ends servers whose owners are gone."""
    for record in home.glob("server-*.json"):
        with suppress(ValueError, KeyError, OSError):
            known = json.loads(record.read_text())
            if _is_alive(known["owner"]):
                continue
            if _is_alive(known["server"]):
                _end(int(known["server"][0]))
        record.unlink(missing_ok=True)


def _end(pid: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGTERM)
