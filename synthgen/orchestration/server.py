"""An embedded Prefect server, for as long as a flow runs, if the user has none.

Prefect can start one by itself, but in our process group: Ctrl-C would end it before the flow could report its end, and
a kill would leave it behind for ever. This server has a group of its own and a record, so the next run ends what a
killed run left behind. If the server ends by itself, another one takes over its address and database, and Prefect's
clients go on.

Whoever may use a Prefect server can make it, and those who work for it, run anything. So this one has a password, new
with every start. It is in the environment of the server and in the settings of Prefect's clients, and nowhere else.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from synthgen.base.disk import free_bytes
from synthgen.base.interrupts import ended_by_signals
from synthgen.errors import SynthgenError
from synthgen.orchestration import process
from synthgen.orchestration.database import damage, set_aside
from synthgen.orchestration.settings import using_server
from synthgen.orchestration.user_profile import no_room, prefect_home

START_SECONDS = 180.0  # A busy laptop needs more than the 20 s that Prefect allows.
RESTARTS = 5  # of a server that does not last, in a run
CHECK_SECONDS = 5.0  # between health checks, and for an answer to one
MOST_UNANSWERED = 6  # health checks in a row, before the server is ended
ROOM_BYTES = 8_000_000  # for a new database, and what is written beside it
_NO_ROOM = ("No space left on device", "database or disk is full", "quota exceeded", "write a readonly database")
_OTHER_VERSION = "Can't locate revision identified by"  # in Alembic's words
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # No proxy leads to ports of this machine.


class ServerError(SynthgenError):
    """Prefect's server could not be started, or does not answer."""

    exit_code = 1


@contextmanager
def embedded_server(services: bool = False) -> Iterator[str]:
    """Runs a server while its block runs; Prefect's clients in the block use it. Yields the URL of its API. The
    settings in the block have the password, and so has the environment of processes that Prefect starts in it.

    Args:
        services: whether the server also looks after schedules and automations.

    Raises:
        ServerError: the server ended at once, or did not answer in time; says what it printed last.
        OutOfRoom: its files cannot be written.
    """
    home = prefect_home()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = Server(home, port, services)
    keeper = threading.Thread(target=server.keep, name="server", daemon=True)
    with ended_by_signals():
        try:
            server.start()
            keeper.start()
            with using_server(server.url, server.password):
                yield server.url
        finally:
            server.close()
            if keeper.ident:
                keeper.join()
            server.remove_log()


class Server:
    """A server at a port of this machine, with its files in `home`."""

    def __init__(self, home: Path, port: int, services: bool) -> None:
        self.url = f"http://127.0.0.1:{port}/api"
        self.password = f"synthgen:{secrets.token_urlsafe(32)}"
        self._port = port
        self._home, self._log, self._database = home, home / f"server-{port}.log", home / "prefect.db"
        self._command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
        self._command += ["--no-ui", "--analytics-off", "--log-level", "ERROR"]
        self._command += [] if services else ["--no-services"]
        self._owner = process.identity(os.getpid())
        self._log_is_named = False  # An error names it, so people will read it.
        self._closing = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts the server and waits until it answers. Begins a new database if the existing one cannot be used.

        Raises:
            ServerError: the server ended at once, or did not answer in time.
            OutOfRoom: its files cannot be written.
        """
        try:
            with start_lock(self._home, self._closing):
                end_orphans(self._home)
                if why := damage(self._database):
                    self._replace_database(f"is damaged ({why})")
                try:
                    self.launch()
                except ServerError:
                    self._end()
                    other = "is of another version of Prefect"
                    if _OTHER_VERSION not in self._output() or not self._replace_database(other):
                        raise
                    self.launch()
        except OSError as error:
            raise no_room(self._home, error.strerror or str(error)) from error

    def launch(self) -> None:
        """Starts the process with the database that is there, and waits until it answers. Raises as `start`."""
        self._log_is_named = False
        # The user's settings are for a server of the user's. Their names may be in any case.
        environment = {k: v for k, v in os.environ.items() if not k.upper().startswith(("PREFECT_", "SSL_CERT_"))}
        environment |= {
            "PREFECT_HOME": str(self._home),
            "PREFECT_PROFILES_PATH": os.devnull,
            "PREFECT_SERVER_API_AUTH_STRING": self.password,
            "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": self.url.removesuffix("/api"),  # No page of another site may ask.
            "DO_NOT_TRACK": "1",
        }
        with open(self._log, "wb") as output:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment,
                start_new_session=True, cwd="/",
            )  # fmt: skip
        record = {"server": process.identity(self._process.pid), "owner": self._owner, "log": self._log.name}
        self._record().write_text(json.dumps(record))
        deadline = time.monotonic() + START_SECONDS
        while not (port_is_ours(self._port) and is_healthy(self.url)):
            ended = self._process.poll() is not None
            if ended or time.monotonic() > deadline or self._closing.is_set():
                raise self._failure(ended)
            time.sleep(0.1)

    def _failure(self, ended: bool) -> SynthgenError:
        """Why the process has not started, for people."""
        assert self._process is not None
        output = self._output()
        if ended and (any(words in output for words in _NO_ROOM) or free_bytes(self._home) < ROOM_BYTES):
            return no_room(self._home, "no room is left, or they may not be changed")
        state = f"ended with {self._process.returncode}" if ended else f"did not answer in {START_SECONDS:.0f} s"
        self._log_is_named = not self._closing.is_set()
        last = output.splitlines()[-1] if output else "no word"
        return ServerError(f"Prefect's server {state}: {last} (more in {self._log})")

    def _output(self) -> str:
        return self._log.read_text(errors="replace").strip()

    def _replace_database(self, why: str) -> bool:
        """Sets the database aside, unless another server works on it. Returns whether it did."""
        if any(self._home.glob("server-*.json")):
            return False
        kept = set_aside(self._database)
        print_notice(f"Prefect's database {self._database} {why}; it is kept as {kept.name}, and a new one is begun")
        return True

    def keep(self) -> None:
        """Starts another server whenever this one has ended or does not answer, until `close`. If that fails, the run
        goes on without: it needs the server at its beginning and its end only."""
        for left in reversed(range(RESTARTS + 1)):
            state = self._wait_for_loss()
            if self._closing.is_set():
                return
            self._end()
            print_notice(f"Prefect's server {state}; the run goes on{', and another is started' if left else ''}")
            try:
                if left:
                    self.start()
            except SynthgenError as error:
                self._end()
                if not self._closing.is_set():
                    print_notice(f"{error}; the run goes on without it")
                return

    def _wait_for_loss(self) -> str:
        """Waits until the process has ended, has not answered for long, or is closed. Returns which, in words."""
        assert self._process is not None
        unanswered = 0
        while unanswered < MOST_UNANSWERED and not self._closing.is_set():
            with suppress(subprocess.TimeoutExpired):
                return f"ended with {self._process.wait(CHECK_SECONDS)}"
            unanswered = 0 if is_healthy(self.url) else unanswered + 1
        return f"did not answer for {2 * CHECK_SECONDS * MOST_UNANSWERED:.0f} s"

    def close(self) -> None:
        """Ends the server, also one that `keep` is starting."""
        self._closing.set()
        self._end()

    def remove_log(self) -> None:
        """Removes the log unless an error has named it. Until `keep` has ended, it may open the log once more."""
        if not self._log_is_named:
            self._log.unlink(missing_ok=True)

    def _end(self) -> None:
        if self._process is not None:
            running = self._process
            if running.poll() is None:  # Otherwise its number may be another process's by now.
                process.end(running.pid, lambda: running.poll() is None)
            self._record().unlink(missing_ok=True)

    def _record(self) -> Path:
        assert self._process is not None
        return self._home / f"server-{self._process.pid}.json"


@contextmanager
def start_lock(home: Path, closing: threading.Event) -> Iterator[None]:
    """Lets one server of a home start at a time: the first sets up the database, and two at once fail at that.

    Raises:
        ServerError: others have held the lock for too long, or `closing` is set.
    """
    deadline = time.monotonic() + 2 * START_SECONDS
    with open(home / "start.lock", "w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline or closing.is_set():
                    raise ServerError(f"another command is starting Prefect's server in {home}, for too long") from None
                time.sleep(0.1)
            except OSError:  # The file system has no locks.
                break
        yield


def end_orphans(home: Path) -> None:
    """Ends the servers whose owners are gone, and removes their logs. The caller holds `start_lock`."""
    logs = set(home.glob("server-*.log"))
    for record in home.glob("server-*.json"):
        with suppress(ValueError, KeyError, OSError):
            known = json.loads(record.read_text())
            if process.is_alive(known["owner"]):
                logs.discard(home / known.get("log", ""))
                continue
            server = known["server"]
            if process.is_alive(server):
                process.end(int(server[0]), partial(process.is_alive, server))
        record.unlink(missing_ok=True)
    for log in logs:
        log.unlink(missing_ok=True)


def port_is_ours(port: int) -> bool:
    """Whether nobody but this user listens at a port of 127.0.0.1, as far as the system tells (proc_net(5)). Another
    user may have taken the port before our server did, and would get the password."""
    try:
        lines = Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]
    except OSError:
        return True
    sockets = [line.split() for line in lines]
    listening = [s for s in sockets if s[1] == f"0100007F:{port:04X}" and s[3] == "0A"]
    return all(int(s[7]) == os.getuid() for s in listening)


def is_healthy(url: str) -> bool:
    """Whether the server whose API is at `url` answers."""
    with suppress(OSError), _DIRECT.open(f"{url}/health", timeout=CHECK_SECONDS) as answer:
        return bool(answer.status == 200)
    return False


def print_notice(text: str) -> None:
    """A line on stderr for the person at the terminal, above the display."""
    with suppress(OSError):  # The terminal is closed.
        print(text, file=sys.stderr, flush=True)
