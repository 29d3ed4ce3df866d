"""What Prefect's servers do while a run goes on, and what is left of them: the real command, killed and let down."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from runs import results
from servers import answers, left_behind

from synthgen import flow as _flow  # noqa: F401  # before Prefect: its settings
from synthgen.orchestration.connection import MOST_RETRIES

PATIENCE = 180  # seconds for a server to start

# The command line, which notes each request that it sends after the end of the dataset.
COUNTING = """
import os, httpx
from synthgen import cli
send = httpx.HTTPTransport.handle_request
def noted(self, request):
    if os.path.exists(os.environ["ENDED"]):
        with open(os.environ["SENT"], "a") as file:
            file.write(f"{request.method} {request.url.path}\\n")
    return send(self, request)
httpx.HTTPTransport.handle_request = noted
cli.main()
"""


@pytest.fixture
def place(quick: Any, tmp_path: Path, migrated: Any) -> Path:
    migrated(tmp_path / "home" / "prefect")
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(quick, sort_keys=False))
    return tmp_path


@contextmanager
def started(
    place: Path, how: tuple[str, ...] = ("-m", "synthgen.cli"), **variables: str
) -> Iterator[subprocess.Popen[str]]:
    """`synthgen run`, with Prefect's variables taken out of the environment and `variables` put in."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    process = subprocess.Popen(
        [sys.executable, *how, "run", place / "spec.yaml", "--out", place / "out", "--quiet"],
        env={**environment, "SYNTHGEN_HOME": str(place / "home"), **variables},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        try:
            yield process
        finally:
            process.kill()  # one that is held would be waited for in vain


def hold(place: Path, process: subprocess.Popen[str], mark: str = "generate-00000") -> None:
    """Waits until a run has made a mark, in its middle, and holds it there."""
    deadline = time.monotonic() + PATIENCE
    while not (place / "out" / "fruit" / "run-0001" / "commits" / f"{mark}.json").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGSTOP)
    assert not (place / "out" / "fruit" / "run-0001" / "commits" / "judge.json").exists()


def servers(place: Path) -> list[int]:
    """Process ids of the servers on record."""
    return [int(json.loads(f.read_text())["server"][0]) for f in (place / "home" / "prefect").glob("server-*.json")]


def is_alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def whole(place: Path, finished: Any) -> None:
    assert results(place / "out" / "fruit" / "run-0001") == results(finished.run.root)
    assert left_behind(place / "home") == []


@pytest.fixture
def others(place: Path, migrated: Any) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A Prefect server of the user's own -> its API's URL; the process."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = str(found.getsockname()[1])
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", port, "--no-ui"]
    environment = {**os.environ, "PREFECT_HOME": str(place / "theirs"), "DO_NOT_TRACK": "1"}
    migrated(place / "theirs")
    process = subprocess.Popen(
        [*command, "--no-services"], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + PATIENCE
        while not answers(f"http://127.0.0.1:{port}/api"):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/api", process
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_command_leaves_a_server_that_the_next_one_ends(place: Path, finished: Any) -> None:
    with started(place) as killed:
        hold(place, killed)
        killed.kill()
    (left,) = servers(place)
    assert killed.returncode == -signal.SIGKILL and is_alive(left)
    with started(place) as again:
        hold(place, again, "generate-00001")
        now = servers(place)
        assert not is_alive(left) and len(now) == 1 and is_alive(now[0])
        again.send_signal(signal.SIGCONT)
        again.communicate(timeout=PATIENCE)
    assert again.returncode == (3 if finished.quality().missing else 0)
    assert servers(place) == [] and not is_alive(now[0])
    whole(place, finished)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_whose_own_server_is_killed_goes_on(place: Path, finished: Any) -> None:
    with started(place) as process:
        hold(place, process)
        (server,) = servers(place)
        os.kill(server, signal.SIGKILL)
        process.send_signal(signal.SIGCONT)
        out, errors = process.communicate(timeout=2 * PATIENCE)
    assert process.returncode == (3 if finished.quality().missing else 0), errors
    assert errors.splitlines()[0] == "Prefect's server ended with -9; the run goes on, and another is started"
    assert [line for line in errors.splitlines()[1:] if not line.startswith("short: ")] == []
    assert out.startswith("done: ")
    whole(place, finished)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_whose_users_server_dies_goes_on(
    place: Path, finished: Any, others: tuple[str, subprocess.Popen[bytes]]
) -> None:
    url, server = others
    seen = {"ENDED": str(place / "out" / "fruit" / "run-0001" / "commits" / "report.json"), "SENT": str(place / "sent")}
    with started(place, ("-c", COUNTING), **seen, PREFECT_API_URL=url, PREFECT_HOME=str(place / "client")) as process:
        hold(place, process)
        server.kill()
        process.send_signal(signal.SIGCONT)
        out, errors = process.communicate(timeout=PATIENCE)
    sent = Counter((place / "sent").read_text().splitlines())
    assert process.returncode == (3 if finished.quality().missing else 0), errors
    lost = f"Prefect's server at {url} does not answer, and has no record of the end of this run"
    assert errors.splitlines()[0] == f"{lost}; the dataset is finished all the same"
    assert [line for line in errors.splitlines()[1:] if not line.startswith("short: ")] == []
    assert out.startswith("done: ")
    assert sent and max(sent.values()) <= 1 + MOST_RETRIES, sent
    whole(place, finished)


def test_a_users_server_that_is_not_there(place: Path) -> None:
    url = "http://127.0.0.1:9/api"
    with started(place, PREFECT_API_URL=url, PREFECT_HOME=str(place / "client")) as process:
        _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert errors == f"error: Prefect's server at {url} does not answer; nothing was begun\n"
    assert not (place / "out" / "fruit" / "run-0001" / "images").exists()


def wait_for_server(place: Path, process: subprocess.Popen[str]) -> None:
    """Until one is on record: it is being started, and does not answer yet."""
    deadline = time.monotonic() + PATIENCE
    while not list((place / "home" / "prefect").glob("server-*.json")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)


def test_an_end_while_the_server_starts_leaves_none(place: Path) -> None:
    with started(place) as process:
        wait_for_server(place, process)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert errors == "stopped; what is finished is kept, and the same command goes on from there\n"
    assert left_behind(place / "home") == [] and not list((place / "home" / "prefect").glob("server-*"))


def test_a_terminal_that_is_closed_leaves_no_server(place: Path) -> None:
    """Its end is a signal, after which nothing can be said there."""
    code = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); from synthgen import cli; cli.main()"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    terminal, end = os.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", code, "run", place / "spec.yaml", "--out", place / "out"],
        env={**environment, "SYNTHGEN_HOME": str(place / "home")}, start_new_session=True,
        stdin=end, stdout=end, stderr=end, text=True,
    ) as process:  # fmt: skip
        os.close(end)
        wait_for_server(place, process)
        os.close(terminal)
        assert process.wait(PATIENCE) == 130
    assert left_behind(place / "home") == [] and not list((place / "home" / "prefect").glob("server-*"))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_full_disk_leaves_no_server(place: Path) -> None:
    """As if it were full: no disk has so many bytes to spare."""
    code = "from synthgen import cli; from synthgen.store import files; files.SPARE_BYTES = 10**18; cli.main()"
    with started(place, ("-c", code)) as process:
        _, errors = process.communicate(timeout=2 * PATIENCE)
    assert process.returncode == 4, errors
    assert errors.count("\n") == 1 and "too few to go on; what is finished is kept" in errors
    assert servers(place) == [] and left_behind(place / "home") == []
