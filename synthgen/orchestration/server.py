"""A Prefect server of our own, for as long as a flow runs, where the user has none.

Prefect can start one by itself, but in our process group: a Ctrl-C would end it before the flow could say how it ended,
and a kill would leave it behind for ever. This one has a group of its own, and is recorded: the next run ends what a
killed one left. If it ends by itself, another takes its place, address and database, and Prefect's clients go on.

Whoever may use a Prefect server can make it, and those who work for it, run anything. So ours has a password, new with
every start: the server has it in its environment, Prefect's clients in their settings, and nobody else has it.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import secrets
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import certifi
from httpx import HTTPStatusError, TransportError, UnsupportedProtocol
from prefect.client.orchestration import get_client
from prefect.context import SettingsContext, get_settings_context
from prefect.events.worker import EventsWorker
from prefect.settings import (
    PREFECT_API_REQUEST_TIMEOUT,
    PREFECT_API_URL,
    PREFECT_CLIENT_MAX_RETRIES,
    Settings,
    temporary_settings,
)
from pydantic import BaseModel

from synthgen.base.files import free_bytes
from synthgen.base.interrupts import ended_by_signals
from synthgen.errors import SynthgenError
from synthgen.orchestration.user_profile import no_room, own_home

START_SECONDS = 180.0  # a busy laptop needs more than the 20 s that Prefect allows
END_SECONDS = 10.0  # for an end in good order
ANSWER_SECONDS = 10.0  # for one answer of a server that is the user's own
MOST_RETRIES = 3  # of a request to it, after 2, 4 and 8 s; the end of a flow makes two or three of them
RESTARTS = 5  # of a server that does not last, in a run
LOOK_SECONDS = 5.0  # between looks at a server of our own, and for an answer of it
MOST_SILENT = 6  # looks one after another that it does not answer, before it is ended
ROOM_BYTES = 8_000_000  # that a new database takes, and what is written beside it
_NO_ROOM = ("No space left on device", "database or disk is full", "quota exceeded", "write a readonly database")
_OTHER_VERSION = "Can't locate revision identified by"  # in Alembic's words


_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy leads to this machine's own ports

R = TypeVar("R")


class ServerError(SynthgenError):
    """Prefect's server could not be started, or does not answer."""

    exit_code = 1


@contextmanager
def embedded_server(services: bool = False) -> Iterator[str]:
    """Starts a server, and ends it with the block, in which Prefect's clients use it; -> its API's URL. The block's
    settings have the server's password, and so has the environment of processes that Prefect starts in it.

    Args:
        services: whether it also looks after schedules and automations.

    Raises:
        ServerError: it ended at once, or did not answer in time; says what it printed last.
    """
    home = own_home()
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    server = _Server(home, port, services)
    keeper = threading.Thread(target=server.keep, name="server", daemon=True)
    with ended_by_signals():
        try:
            server.start()
            keeper.start()
            with _used_by_clients(server.url, server.password):
                yield server.url
        finally:
            server.close()
            if keeper.ident:
                keeper.join()


@contextmanager
def _turn(home: Path, over: threading.Event) -> Iterator[None]:
    """One start at a time: the first of a home sets up its database, and two at once fail at that.

    Raises:
        ServerError: others have been at it for too long, or there is no need any more.
    """
    deadline = time.monotonic() + 2 * START_SECONDS
    with open(home / "start.lock", "w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline or over.is_set():
                    raise ServerError(f"another command is starting Prefect's server in {home}, for too long") from None
                time.sleep(0.1)
            except OSError:  # a file system without locks
                break
        yield


class _Server:
    """A server at a port of this machine, with its files in `home`."""

    def __init__(self, home: Path, port: int, services: bool) -> None:
        self.url = f"http://127.0.0.1:{port}/api"
        self._port = port
        self.password = f"synthgen:{secrets.token_urlsafe(32)}"
        self._home, self._log, self._database = home, home / f"server-{port}.log", home / "prefect.db"
        self._command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
        self._command += ["--no-ui", "--analytics-off", "--log-level", "ERROR"]
        self._command += [] if services else ["--no-services"]
        self._owner = _identity(os.getpid())
        self._log_is_named = False
        self._closing = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it, and waits until it answers; with another database, if the one that is there is no use.

        Raises:
            ServerError: it ended at once, or did not answer in time.
            OutOfRoom: its files cannot be written.
        """
        try:
            with _turn(self._home, self._closing):
                _end_left_behind(self._home)
                if damage := _damage(self._database):
                    self._set_aside(f"is damaged ({damage})")
                try:
                    self._begin()
                except ServerError:
                    self._end()
                    if _OTHER_VERSION not in self._said() or not self._set_aside("is of another version of Prefect"):
                        raise
                    self._begin()
        except OSError as error:
            raise no_room(self._home, error.strerror or str(error)) from error

    def _begin(self) -> None:
        """Raises as `start`."""
        self._log_is_named = False
        # The user's settings, of whatever kind and in whatever letters, are for a server of the user's.
        environment = {k: v for k, v in os.environ.items() if not k.upper().startswith(("PREFECT_", "SSL_CERT_"))}
        environment |= {
            "PREFECT_HOME": str(self._home),
            "PREFECT_PROFILES_PATH": os.devnull,
            "PREFECT_SERVER_API_AUTH_STRING": self.password,
            "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": self.url.removesuffix("/api"),  # pages of no other
            "DO_NOT_TRACK": "1",
        }
        with open(self._log, "wb") as output:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment,
                start_new_session=True, cwd="/",
            )  # fmt: skip
        record = {"server": _identity(self._process.pid), "owner": self._owner, "log": self._log.name}
        self._record().write_text(json.dumps(record))
        deadline = time.monotonic() + START_SECONDS
        while not (_is_ours(self._port) and _is_up(self.url)):
            ended = self._process.poll() is not None
            if ended or time.monotonic() > deadline or self._closing.is_set():
                said = self._said()
                if ended and (any(words in said for words in _NO_ROOM) or free_bytes(self._home) < ROOM_BYTES):
                    raise no_room(self._home, "no room is left, or they may not be changed")
                state = (
                    f"ended with {self._process.returncode}" if ended else f"did not answer in {START_SECONDS:.0f} s"
                )
                self._log_is_named = True
                last = said.splitlines()[-1] if said else "no word"
                raise ServerError(f"Prefect's server {state}: {last} (more in {self._log})")
            time.sleep(0.1)

    def _said(self) -> str:
        return self._log.read_text(errors="replace").strip()

    def _set_aside(self, why: str) -> bool:
        """Renames the database, unless another server is at work on it; -> whether it did."""
        if any(self._home.glob("server-*.json")):
            return False
        kept = self._database.with_stem(f"prefect-{time.strftime('%Y%m%d-%H%M%S')}")
        for end in ("-wal", "-shm", ""):
            with suppress(FileNotFoundError):
                Path(f"{self._database}{end}").rename(f"{kept}{end}")
        say(f"Prefect's database {self._database} {why}; it is kept as {kept.name}, and a new one is begun")
        return True

    def keep(self) -> None:
        """Starts another whenever it has ended, or does not answer, until `close`. A run needs it at its beginning and
        its end only, so one that cannot be started is no reason to stop."""
        for left in reversed(range(RESTARTS + 1)):
            state = self._lost()
            if self._closing.is_set():
                return
            self._end()
            say(f"Prefect's server {state}; the run goes on{', and another is started' if left else ''}")
            try:
                if left:
                    self.start()
            except SynthgenError as error:
                self._end()
                if not self._closing.is_set():
                    say(f"{error}; the run goes on without it")
                return

    def _lost(self) -> str:
        """Waits until it has ended, or has not answered for long, or `close`; -> which."""
        assert self._process is not None
        silent = 0
        while silent < MOST_SILENT and not self._closing.is_set():
            with suppress(subprocess.TimeoutExpired):
                return f"ended with {self._process.wait(LOOK_SECONDS)}"
            silent = 0 if _is_up(self.url) else silent + 1
        return f"did not answer for {2 * LOOK_SECONDS * MOST_SILENT:.0f} s"

    def close(self) -> None:
        self._closing.set()
        self._end()
        if not self._log_is_named:  # by an error, for people to read
            self._log.unlink(missing_ok=True)

    def _end(self) -> None:
        if self._process is not None:
            process = self._process
            if process.poll() is None:  # else its number may be another's by now
                _end(process.pid, lambda: process.poll() is None)
            self._record().unlink(missing_ok=True)

    def _record(self) -> Path:
        assert self._process is not None
        return self._home / f"server-{self._process.pid}.json"


@contextmanager
def _used_by_clients(url: str, password: str) -> Iterator[None]:
    """In it, Prefect's clients use the server at an address, whatever the user has set for a server of the user's.

    Every setting is given a value here, since Prefect looks for each that has none in `.env`, `prefect.toml` and
    `pyproject.toml` of the working directory, in this process and in those that it starts.
    """
    now = get_settings_context()
    values = now.settings.model_dump()
    values |= {name: _defaults(type(getattr(now.settings, name))) for name in ("api", "client", "cloud")}
    values["ui_url"] = ""  # it has no pages
    values["api"] |= {"url": url, "auth_string": password, "ssl_cert_file": certifi.where()}
    values["tasks"]["default_persist_result"] = False
    # As text, since the user's headers would be added to those of a dictionary; and with the one that must not be the
    # user's, since in processes that Prefect starts theirs are added all the same.
    login = b64encode(password.encode()).decode()
    values["client"]["custom_headers"] = json.dumps({"Authorization": f"Basic {login}"})
    with SettingsContext(profile=now.profile, settings=Settings(**values)):
        yield


def _defaults(kind: type[BaseModel]) -> dict[str, Any]:
    """The values that settings have where nobody has set them."""
    return {
        name: _defaults(field.annotation)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        else field.get_default(call_default_factory=True)
        for name, field in kind.model_fields.items()
    }


@contextmanager
def without_proxy(is_own: bool) -> Iterator[None]:
    """In it, clients of servers at this machine's own address ask them without the environment's proxy.

    Args:
        is_own: whether Prefect's server is `embedded_server`. Then no proxy but those of HTTP is there either: httpx
            makes each ready even where it is not to be used, and fails where it cannot.
    """
    changed: dict[str, str | None] = {}
    known = [*filter(None, (os.environ.get("no_proxy") or os.environ.get("NO_PROXY", "")).split(","))]
    for name in ("NO_PROXY", "no_proxy"):
        changed[name] = ",".join([*known, "127.0.0.1", "localhost"])
    if is_own:
        names = [n for n in os.environ if n.lower() in ("all_proxy", "http_proxy", "https_proxy")]
        changed |= {n: None for n in names if re.match(r"(?!https?:)[^:]*://", os.environ[n], re.IGNORECASE)}
    before = {name: os.environ.get(name) for name in changed}
    _set(changed)
    try:
        yield
    finally:
        _set(before)


def _set(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value


def say(words: str) -> None:
    """A line for the person at the terminal, above what is shown there."""
    with suppress(OSError):  # the terminal is closed
        print(words, file=sys.stderr, flush=True)


def _is_ours(port: int) -> bool:
    """Whether it is this user who listens at a port of 127.0.0.1, where the system says it (proc_net(5)): another may
    have taken the port before our server did, and would be told the password."""
    try:
        lines = Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]
    except OSError:
        return True
    sockets = [line.split() for line in lines]
    listening = [s for s in sockets if s[1] == f"0100007F:{port:04X}" and s[3] == "0A"]
    return all(int(s[7]) == os.getuid() for s in listening)


def _is_up(url: str) -> bool:
    with suppress(OSError), _DIRECT.open(f"{url}/health", timeout=LOOK_SECONDS) as answer:
        return bool(answer.status == 200)
    return False


def on_server(run: Callable[[], R], finished: Callable[[], R | None], is_own: bool) -> R:
    """What a flow gives, on the Prefect server of the settings, even if that is lost on the way: work waits for it at
    the beginning and the end of a flow only.

    Args:
        run: runs the flow; again, if the server is back after it was lost. The store knows what is done.
        finished: what the flow gives, if all of its work is done.
        is_own: whether the server is `embedded_server`, which comes back. For another nobody waits long.

    Raises:
        SynthgenError: what the flow raises.
        ServerError: the server does not answer, and work is left.
    """
    silent = f"Prefect's server at {PREFECT_API_URL.value()} does not answer"
    patience = {
        PREFECT_CLIENT_MAX_RETRIES: min(PREFECT_CLIENT_MAX_RETRIES.value(), MOST_RETRIES),
        PREFECT_API_REQUEST_TIMEOUT: min(PREFECT_API_REQUEST_TIMEOUT.value(), ANSWER_SECONDS),
    }
    for name in ("prefect._internal.concurrency", "EventsWorker", "APILogWorker"):
        logging.getLogger(name).addFilter(_unsaid)
    with temporary_settings({} if is_own else patience):
        check()
        if not _answers():
            raise ServerError(f"{silent}; nothing was begun")
        for _ in range(RESTARTS):
            try:
                with _last_words():
                    return run()
            except Exception as error:
                told = _told_by(error)
                if isinstance(told, SynthgenError) and told is not error:
                    raise told from None
                if not _is_away(told):
                    raise
            if (done := finished()) is not None:
                say(f"{silent}, and has no record of the end of this run; the dataset is finished all the same")
                return done
            if not _answers(START_SECONDS if is_own else 0):
                break
            say("Prefect's server was away, and answers again; the run goes on")
    raise ServerError(f"{silent}; what is finished is kept, and the same command goes on from there")


def check() -> None:
    """Whether what is at the settings' address is Prefect's API, and lets us in; one that is away is not asked.

    Raises:
        ServerError: it is not, or does not; says what to set.
    """
    url = PREFECT_API_URL.value()
    try:
        with (
            temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}),
            get_client(sync_client=True, httpx_settings={"timeout": ANSWER_SECONDS}) as client,
        ):
            if client._client.get("/health").json() is True:
                return
        why = "is not Prefect's API"
    except HTTPStatusError as error:
        code = error.response.status_code
        if code in (401, 403):
            raise ServerError(f"the server at {url} asks for a login ({code}); set PREFECT_API_AUTH_STRING") from None
        if _is_away(error):
            return
        why = f"is not Prefect's API ({code})"
    except (ImportError, ValueError, UnsupportedProtocol) as error:  # no JSON, or no address at all
        if "proxy" in str(error):
            raise ServerError(f"no proxy of the environment can be used for {url}: {error}") from None
        why = "is not Prefect's API"
    except TransportError as error:
        if "CERTIFICATE" in str(error) or "SSL" in str(error):
            raise ServerError(f"the server at {url} cannot be trusted: {error}") from None
        return
    raise ServerError(f"{url} {why}; PREFECT_API_URL is such as http://127.0.0.1:4200/api, with /api at its end")


def _unsaid(record: logging.LogRecord) -> bool:
    """Filter of what Prefect says of each event that it cannot send: a page. Levels it sets anew with each flow."""
    return False


def _answers(seconds: float = 0) -> bool:
    """Whether the server answers now, or within some seconds. To say no is an answer too."""
    deadline = time.monotonic() + seconds
    with (
        temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}),
        get_client(sync_client=True, httpx_settings={"timeout": ANSWER_SECONDS}) as client,
    ):
        while (error := client.api_healthcheck()) and (not isinstance(error, HTTPStatusError) or _is_away(error)):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.5)
    return True


def _told_by(error: BaseException) -> BaseException:
    """What is to be told of an error: what Prefect was about to tell its server, if that is for people; else that it
    could not; else the error itself."""
    causes = [error]
    while (following := causes[-1].__cause__ or causes[-1].__context__) and following not in causes:
        causes.append(following)
    wanted = [e for e in causes if isinstance(e, SynthgenError)] + [e for e in causes if _is_away(e)]
    return wanted[0] if wanted else error


def _is_away(error: BaseException) -> bool:
    """Whether an error is that of a server which cannot be reached, or of a proxy before it which cannot reach it."""
    if isinstance(error, HTTPStatusError):
        return error.response.status_code >= 500
    return isinstance(error, TransportError)


@contextmanager
def _last_words() -> Iterator[None]:
    """If the block fails and the server is gone, drops what Prefect still has to tell it. At the end of the process it
    would try that for ten seconds an event, and there are three a task."""
    try:
        yield
    except BaseException:
        if not _answers():
            for service in list(EventsWorker._instances.values()):  # type: ignore[misc]  # there is no public way
                with service._queue.mutex:
                    service._queue.queue.clear()
        raise


def _identity(pid: int) -> list[str]:
    """A process that still is the one it was: its number and when it started, or no second entry if it is gone, or if
    this machine does not tell. A record of another form (an older version's) is like none: nothing is ended by it."""
    return [str(pid), *filter(None, [_started(pid)])]


def _started(pid: int) -> str:
    """When a process started, in words that no time zone changes; "" if it is gone, or if nothing here can say."""
    if Path("/proc/self/stat").exists():
        try:
            # The name, in parentheses, may have any character in it; the 22nd field is the 20th after it.
            ticks = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[19]
            return f"{ticks} ticks after boot {Path('/proc/sys/kernel/random/boot_id').read_text().strip()}"
        except (OSError, IndexError):
            return ""
    environment = {**os.environ, "TZ": "UTC", "LC_ALL": "C"}
    command = ["ps", "-o", "lstart=", "-p", str(pid)]
    with suppress(OSError):  # there may be no ps either
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment).stdout.strip()
    return ""


def _is_alive(known: list[str]) -> bool:
    return len(known) == 2 and _identity(int(known[0])) == known


def _damage(database: Path) -> str:
    """What SQLite finds wrong with a database; "" if it is good, or not there, or cannot be looked at now."""
    if not database.is_file():
        return ""
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=rw", uri=True)) as connection:
            found = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
        return "" if found == "ok" else " ".join(found.split())
    except sqlite3.Error as error:
        return str(error) if error.sqlite_errorcode in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) else ""


def _end_left_behind(home: Path) -> None:
    """Ends servers whose owners are gone, and removes what they said. Call it when it is your turn to start one."""
    logs = set(home.glob("server-*.log"))
    for record in home.glob("server-*.json"):
        with suppress(ValueError, KeyError, OSError):
            known = json.loads(record.read_text())
            if _is_alive(known["owner"]):
                logs.discard(home / known.get("log", ""))
                continue
            server = known["server"]
            if _is_alive(server):
                _end(int(server[0]), partial(_is_alive, server))
        record.unlink(missing_ok=True)
    for log in logs:
        log.unlink(missing_ok=True)


def _end(pid: int, is_alive: Callable[[], bool]) -> None:
    """Ends a process and its group: in good order, and if that takes too long, at once."""
    for number, seconds in ((signal.SIGTERM, END_SECONDS), (signal.SIGKILL, END_SECONDS)):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, number)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if not is_alive():
                return
            time.sleep(0.05)
