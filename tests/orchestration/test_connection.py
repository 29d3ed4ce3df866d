"""A flow and its Prefect server: checked before it begins, and lost on the way."""

import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from synthgen.errors import OutOfRoom
from synthgen.flow import served
from synthgen.orchestration import connection, server, settings


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
    assert server.is_healthy(PREFECT_API_URL.value())
    with settings.without_proxy(is_embedded=True):
        assert connection.on_server(flow(7), lambda: None, True) == 7
        assert os.environ["no_proxy"].startswith("example.org,")
    assert dict(os.environ) == before


def test_flows_run_without_a_proxy_to_this_machine(health: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with served() as is_embedded:
        assert connection.on_server(flow(7), lambda: None, is_embedded) == 7


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
        assert connection.on_server(flow(7), lambda: None, False) == 7
    else:
        with pytest.raises(server.ServerError, match=r"does not answer; nothing was begun$") as stop:
            connection.on_server(flow(7), lambda: None, False)
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
        connection.on_server(flow(7), lambda: None, False)


@pytest.mark.parametrize("url", ["127.0.0.1:4200/api", "nonsense"])
def test_an_address_that_is_none_says_so(url: str) -> None:
    with (
        temporary_settings({PREFECT_API_URL: url}),
        pytest.raises(server.ServerError, match="with /api at its end"),
    ):
        connection.on_server(flow(7), lambda: None, False)


def test_a_flow_is_taken_up_again_once_its_server_is_back(
    health: HTTPServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert connection.on_server(flow(lost(), httpx.ReadTimeout("late"), 7), lambda: None, False) == 7
    assert capsys.readouterr().err == "Prefect's server was away, and answers again; the run goes on\n" * 2


def test_a_flow_is_not_taken_up_for_ever(health: HTTPServer) -> None:
    with pytest.raises(server.ServerError, match="the same command goes on from there"):
        connection.on_server(flow(*[lost() for _ in range(server.RESTARTS)]), lambda: None, False)


def test_a_flow_whose_work_is_done_has_not_failed(health: HTTPServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert connection.on_server(flow(lost()), lambda: 7, False) == 7
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
        connection.on_server(run, lambda: None, False)


def test_what_a_person_has_to_know_is_said_though_the_server_is_gone(health: HTTPServer) -> None:
    """Prefect was about to tell its server, and could not."""

    def run() -> int:
        try:
            raise OutOfRoom("no room")
        except OutOfRoom:
            raise lost()  # noqa: B904

    with pytest.raises(OutOfRoom, match="no room"):
        connection.on_server(run, lambda: 7, False)


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), OutOfRoom("no")])
def test_errors_of_the_flow_come_out_as_they_are(health: HTTPServer, error: BaseException) -> None:
    with pytest.raises(type(error)) as stop:
        connection.on_server(flow(error, 7), lambda: 7, False)
    assert stop.value is error


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:9", "gopher://127.0.0.1:9"])
def test_a_proxy_that_cannot_be_used_is_told_in_a_line(
    health: HTTPServer, proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a server of the user's; ours is asked without one."""
    monkeypatch.setenv("ALL_PROXY", proxy)
    with settings.without_proxy(is_embedded=True):
        assert connection.on_server(flow(7), lambda: None, True) == 7
    with (
        settings.without_proxy(is_embedded=False),
        pytest.raises(server.ServerError, match=r"no proxy of the environment can be used for http://127\S+: .*prox"),
    ):
        connection.on_server(flow(7), lambda: None, False)
