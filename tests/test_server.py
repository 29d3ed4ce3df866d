"""Prefect's server as we start it: there while it is needed, and never left behind."""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from synthgen import server

HOLD = """
import time
from synthgen.server import embedded_server
with embedded_server() as url:
    print(url, flush=True)
    time.sleep(120)
"""


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


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


def test_it_is_there_for_the_block_only(home: Path) -> None:
    with server.embedded_server() as url:
        assert answers(url)
        assert len(list(home.glob("server-*.json"))) == 1
    assert gone(url)
    assert not list(home.glob("server-*.json"))


def test_what_a_killed_owner_left_is_ended_by_the_next(home: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    with owner.stdout:
        left = owner.stdout.readline().strip()
    owner.kill()
    owner.wait()
    assert answers(left), "the server outlives an owner that is killed: that is what the record is for"
    with server.embedded_server() as url:
        assert gone(left)
        assert answers(url)


def test_a_server_with_an_owner_is_left_alone(home: Path) -> None:
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


def test_one_that_cannot_start_says_so_at_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_DATABASE_CONNECTION_URL", "sqlite+aiosqlite:////nowhere/at/all.db")
    started = time.monotonic()
    with pytest.raises(server.ServerError, match="Prefect's server ended with"), server.embedded_server():
        pass
    assert time.monotonic() - started < 60
