"""Prefect's server as we start it: there while it is needed, and never left behind."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from servers import answers

from synthgen.errors import OutOfRoom
from synthgen.flow import served
from synthgen.orchestration import server

HOLD = """
import time
from synthgen.orchestration.server import embedded_server
with embedded_server() as url:
    print(url, flush=True)
    time.sleep(120)
"""


def gone(url: str, seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while answers(url):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "a" / "prefect"))
    return tmp_path / "a" / "prefect"


@pytest.fixture
def used(home: Path, migrated: Callable[[Path], Path]) -> Path:
    """`home`, where Prefect has been before."""
    return migrated(home)


def test_it_is_there_for_the_block_only(home: Path) -> None:
    with server.embedded_server() as url:
        assert answers(url)
        assert len(list(home.glob("server-*.json"))) == 1
    assert gone(url)
    assert not list(home.glob("server-*.json"))


def test_what_a_killed_owner_left_is_ended_by_the_next(used: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    with owner.stdout:
        left = owner.stdout.readline().strip()
    owner.kill()
    owner.wait()
    assert answers(left), "the server outlives an owner that is killed: that is what the record is for"
    assert len(list(used.glob("server-*.log"))) == 1
    with server.embedded_server() as url:
        assert gone(left)
        assert answers(url)
        assert [log.stem for log in used.glob("server-*.log")] == [f"server-{httpx.URL(url).port}"]


def test_a_server_with_an_owner_is_left_alone(used: Path) -> None:
    with server.embedded_server() as first, server.embedded_server() as second:
        assert answers(first)
        assert answers(second)


def test_a_record_of_a_process_that_is_another_now_harms_nobody(home: Path) -> None:
    home.mkdir(parents=True)
    bystander = subprocess.Popen(["sleep", "60"], start_new_session=True)
    try:
        record = home / "server-1.json"
        record.write_text(f'{{"server": ["{bystander.pid}", "another time"], "owner": ["999999999"]}}')
        server._end_left_behind(home)
        assert bystander.poll() is None
        assert not record.exists()
    finally:
        os.killpg(bystander.pid, signal.SIGKILL)
        bystander.wait()


def test_a_process_is_known_without_ps_and_in_any_time_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    known = server._identity(os.getpid())
    assert server._is_alive(known)
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    assert server._identity(os.getpid()) == known
    monkeypatch.setenv("PATH", "/nowhere")
    assert server._identity(os.getpid())[0] == str(os.getpid())
    assert not server._is_alive(server._identity(999999999))


def test_one_that_cannot_start_says_so_at_once(home: Path) -> None:
    (home / "prefect.db").mkdir(parents=True)
    started = time.monotonic()
    with pytest.raises(server.ServerError, match="Prefect's server ended with"), server.embedded_server():
        pass
    assert time.monotonic() - started < 60


def test_the_settings_of_the_user_do_not_reach_it(used: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_DATABASE_CONNECTION_URL", "sqlite+aiosqlite:////nowhere/at/all.db")
    monkeypatch.setenv("PREFECT_SERVER_API_BASE_PATH", "/elsewhere")
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("PREFECT_SERVER_API_AUTH_STRING=a:b\n")
    with server.embedded_server() as url:
        assert answers(url)
    assert not list(used.glob("server-*"))


def test_servers_of_a_new_home_start_one_after_another(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home.mkdir(parents=True)
    monkeypatch.setattr(server, "START_SECONDS", 0.1)
    with (
        server._turn(home, threading.Event()),
        pytest.raises(server.ServerError, match="another command is starting"),
        server.embedded_server(),
    ):
        pass


def test_a_database_of_another_version_is_set_aside(used: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with closing(sqlite3.connect(used / "prefect.db")) as database:
        database.execute("UPDATE alembic_version SET version_num = 'of-a-later-one'")
        database.commit()
    with server.embedded_server() as url:
        assert answers(url)
    (kept,) = used.glob("prefect-*.db")
    assert capsys.readouterr().err == (
        f"Prefect's database {used / 'prefect.db'} is of another version of Prefect; it is kept as {kept.name}, "
        "and a new one is begun\n"
    )
    with closing(sqlite3.connect(kept)) as database:
        assert database.execute("SELECT version_num FROM alembic_version").fetchall() == [("of-a-later-one",)]


def test_a_damaged_database_is_set_aside_unless_a_server_has_it(
    used: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = used / "prefect.db"
    assert server._damage(file) == server._damage(used / "none.db") == ""
    whole = file.read_bytes()
    for broken in (b"no database at all" * 100, whole[:40_000] + bytes(400_000) + whole[440_000:]):
        file.write_bytes(broken)
        assert server._damage(file)
        monkeypatch.setattr(server._Server, "_begin", lambda self: None)
        other = used / f"server-{os.getpid()}.json"
        other.write_text(json.dumps({"owner": server._identity(os.getpid()), "server": [], "log": "other.log"}))
        server._Server(used, 1, False).start()
        assert file.read_bytes() == broken
        other.unlink()
        server._Server(used, 1, False).start()
        (kept,) = used.glob("prefect-*.db")
        assert kept.read_bytes() == broken and not file.exists()
        kept.unlink()
        said = capsys.readouterr().err
        assert said.startswith(f"Prefect's database {file} is damaged (") and said.count("\n") == 1


@pytest.mark.parametrize("name", ["PREFECT_HOME", "SYNTHGEN_HOME"])
def test_a_home_that_cannot_be_written_is_told_in_a_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.delenv("PREFECT_HOME", raising=False)
    monkeypatch.setenv(name, str(tmp_path / "file" / "home"))
    with pytest.raises(OutOfRoom) as stop, server.embedded_server():
        pass
    place = tmp_path / "file" / "home" / ("prefect" if name == "SYNTHGEN_HOME" else "")
    assert str(stop.value).startswith(f"Prefect's files cannot be written to {place}: Not a directory; SYNTHGEN_HOME, ")


# A flow whose server is lost


class Health(BaseHTTPRequestHandler):
    """A server that says how it is, and nothing else."""

    status, body = 200, b"true"

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def health(monkeypatch: pytest.MonkeyPatch) -> Iterator[HTTPServer]:
    """A server's health, at the address where the settings have Prefect's."""
    monkeypatch.setattr(Health, "status", 200)
    with HTTPServer(("127.0.0.1", 0), Health) as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.05,))
        thread.start()
        with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{made.server_port}/api"}):
            yield made
        made.shutdown()
        thread.join()


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
@pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", "socks5://127.0.0.1:9"])
def test_a_server_here_is_asked_without_a_proxy(
    health: HTTPServer, name: str, proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "example.org")
    monkeypatch.setenv(name, proxy)
    before = dict(os.environ)
    assert server._is_up(PREFECT_API_URL.value())
    with server.without_proxy(is_own=True):
        assert server.on_server(flow(7), lambda: None, True) == 7
        assert os.environ["no_proxy"].startswith("example.org,")
    assert dict(os.environ) == before


def test_flows_run_without_a_proxy_to_this_machine(health: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with served() as is_own:
        assert server.on_server(flow(7), lambda: None, is_own) == 7


def lost() -> httpx.ConnectError:
    return httpx.ConnectError("connection refused")


def flow(*outcomes: int | BaseException) -> Callable[[], int]:
    """A flow that gives, or raises, one thing after another."""
    left = list(outcomes)

    def run() -> int:
        outcome = left.pop(0)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    return run


@pytest.mark.parametrize(("status", "there"), [(200, True), (500, False), (503, False)])
def test_a_server_that_answers(health: HTTPServer, status: int, there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy's word that there is none is no answer of the server's."""
    monkeypatch.setattr(Health, "status", status)
    if there:
        assert server.on_server(flow(7), lambda: None, False) == 7
    else:
        with pytest.raises(server.ServerError, match=r"does not answer; nothing was begun$") as stop:
            server.on_server(flow(7), lambda: None, False)
        assert stop.value.exit_code == 1


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (401, b"", "PREFECT_API_AUTH_STRING"),
        (403, b"", "PREFECT_API_AUTH_STRING"),
        (404, b"", "with /api at its end"),
        (200, b"<!doctype html>", "with /api at its end"),
    ],
)
def test_a_server_that_is_no_use_says_what_to_set(
    health: HTTPServer, status: int, body: bytes, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Health, "status", status)
    monkeypatch.setattr(Health, "body", body)
    with pytest.raises(server.ServerError, match=words):
        server.on_server(flow(7), lambda: None, False)


@pytest.mark.parametrize("url", ["127.0.0.1:4200/api", "nonsense"])
def test_an_address_that_is_none_says_so(url: str) -> None:
    with (
        temporary_settings({PREFECT_API_URL: url}),
        pytest.raises(server.ServerError, match="with /api at its end"),
    ):
        server.on_server(flow(7), lambda: None, False)


def test_a_flow_is_taken_up_again_once_its_server_is_back(
    health: HTTPServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert server.on_server(flow(lost(), httpx.ReadTimeout("late"), 7), lambda: None, False) == 7
    assert capsys.readouterr().err == "Prefect's server was away, and answers again; the run goes on\n" * 2


def test_a_flow_is_not_taken_up_for_ever(health: HTTPServer) -> None:
    with pytest.raises(server.ServerError, match="the same command goes on from there"):
        server.on_server(flow(*[lost() for _ in range(server.RESTARTS)]), lambda: None, False)


def test_a_flow_whose_work_is_done_has_not_failed(health: HTTPServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert server.on_server(flow(lost()), lambda: 7, False) == 7
    assert capsys.readouterr().err.endswith(
        "has no record of the end of this run; the dataset is finished all the same\n"
    )


def test_a_server_that_is_gone(health: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def run() -> int:
        monkeypatch.setattr(Health, "status", 502)
        raise lost()

    words = (
        r"^Prefect's server at http://127.0.0.1:\d+/api does not answer; what is finished is kept, and the same command"
    )
    with pytest.raises(server.ServerError, match=words):
        server.on_server(run, lambda: None, False)


def test_what_a_person_has_to_know_is_said_though_the_server_is_gone(health: HTTPServer) -> None:
    """Prefect was about to tell its server, and could not."""

    def run() -> int:
        try:
            raise OutOfRoom("no room")
        except OutOfRoom:
            raise lost()  # noqa: B904

    with pytest.raises(OutOfRoom, match="no room"):
        server.on_server(run, lambda: 7, False)


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), OutOfRoom("no")])
def test_errors_of_the_flow_come_out_as_they_are(health: HTTPServer, error: BaseException) -> None:
    with pytest.raises(type(error)) as stop:
        server.on_server(flow(error, 7), lambda: 7, False)
    assert stop.value is error


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:9", "gopher://127.0.0.1:9"])
def test_a_proxy_that_cannot_be_used_is_told_in_a_line(
    health: HTTPServer, proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a server of the user's; ours is asked without one."""
    monkeypatch.setenv("ALL_PROXY", proxy)
    with server.without_proxy(is_own=True):
        assert server.on_server(flow(7), lambda: None, True) == 7
    with (
        server.without_proxy(is_own=False),
        pytest.raises(server.ServerError, match=r"no proxy of the environment can be used for http://127\S+: .*prox"),
    ):
        server.on_server(flow(7), lambda: None, False)


def test_one_that_ends_or_is_frozen_is_replaced_at_its_address(
    used: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "LOOK_SECONDS", 1.0)
    monkeypatch.setattr(server, "MOST_SILENT", 2)
    monkeypatch.setattr(server, "END_SECONDS", 0.5)
    with server.embedded_server() as url:
        for number in (signal.SIGKILL, signal.SIGSTOP):
            (record,) = used.glob("server-*.json")
            with server._turn(used, threading.Event()):
                os.kill(int(record.stem.removeprefix("server-")), number)
                while record.exists():
                    time.sleep(0.1)
                time.sleep(0.5)
                assert not list(used.glob("server-*.json")), "it takes its turn"
            deadline = time.monotonic() + 180
            while not list(used.glob("server-*.json")) or not answers(url):
                assert time.monotonic() < deadline
                time.sleep(0.1)
    assert gone(url) and not list(used.glob("server-*"))
    assert capsys.readouterr().err.splitlines() == [
        "Prefect's server ended with -9; the run goes on, and another is started",
        "Prefect's server did not answer for 4 s; the run goes on, and another is started",
    ]
