"""Prefect's server as we start it: there while it is needed, and never left behind."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from servers import answers

from synthgen.errors import OutOfRoom
from synthgen.orchestration import database, process, server

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
        server.end_orphans(home)
        assert bystander.poll() is None
        assert not record.exists()
    finally:
        os.killpg(bystander.pid, signal.SIGKILL)
        bystander.wait()


def test_a_process_is_known_without_ps_and_in_any_time_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    known = process.identity(os.getpid())
    assert process.is_alive(known)
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    assert process.identity(os.getpid()) == known
    monkeypatch.setenv("PATH", "/nowhere")
    assert process.identity(os.getpid())[0] == str(os.getpid())
    assert not process.is_alive(process.identity(999999999))


def test_one_that_cannot_start_says_so_at_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for its answer all the same waits for ever."""
    monkeypatch.setattr(server, "START_SECONDS", 1e9)
    (home / "prefect.db").mkdir(parents=True)
    with pytest.raises(server.ServerError, match="Prefect's server ended with"), server.embedded_server():
        pass


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
        server.start_lock(home, threading.Event()),
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
    assert database.damage(file) == database.damage(used / "none.db") == ""
    whole = file.read_bytes()
    for broken in (b"no database at all" * 100, whole[:40_000] + bytes(400_000) + whole[440_000:]):
        file.write_bytes(broken)
        assert database.damage(file)
        monkeypatch.setattr(server.Server, "launch", lambda self: None)
        other = used / f"server-{os.getpid()}.json"
        other.write_text(json.dumps({"owner": process.identity(os.getpid()), "server": [], "log": "other.log"}))
        server.Server(used, 1, False).start()
        assert file.read_bytes() == broken
        other.unlink()
        server.Server(used, 1, False).start()
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


def test_nothing_is_left_of_one_that_was_being_replaced_at_the_end(used: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with server.embedded_server():
        (first,) = used.glob("server-*.json")
        monkeypatch.setattr(server, "is_healthy", lambda url: False)
        os.kill(int(first.stem.removeprefix("server-")), signal.SIGKILL)
        while list(used.glob("server-*.json")) in ([], [first]):
            time.sleep(0.02)
    assert not list(used.glob("server-*"))


def test_one_that_ends_or_is_frozen_is_replaced_at_its_address(
    used: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "CHECK_SECONDS", 1.0)
    monkeypatch.setattr(server, "MOST_UNANSWERED", 2)
    monkeypatch.setattr(process, "END_SECONDS", 0.5)
    with server.embedded_server() as url:
        for number in (signal.SIGKILL, signal.SIGSTOP):
            (record,) = used.glob("server-*.json")
            with server.start_lock(used, threading.Event()):
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
