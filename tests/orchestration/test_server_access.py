"""Who may use the Prefect server that we start: Prefect's clients here, whatever the user has set, and nobody else."""

import json
import os
import stat
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect import flow, get_client, task
from prefect.settings import PREFECT_API_AUTH_STRING, get_current_settings
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from synthgen.orchestration import server

# Prefect leaves these open, and no setting of it closes them: a sign of life, and the description of its API.
OPEN = {
    "/api/health", "/api/ready", "/docs", "/docs/oauth2-redirect", "/openapi.json", "/redoc", "/ui-settings",
}  # fmt: skip
THEIRS = {
    "PREFECT_API_KEY": "theirs",
    "PREFECT_API_AUTH_STRING": "their:password",
    "PREFECT_API_SSL_CERT_FILE": "/nowhere",
    "PREFECT_API_TLS_INSECURE_SKIP_VERIFY": "true",
    "PREFECT_CLIENT_CUSTOM_HEADERS": '{"Authorization": "Basic theirs", "X-Their": "header"}',
    "PREFECT_CLOUD_API_URL": "http://127.0.0.1",
}
FILES = {
    ".env": "PREFECT_SERVER_API_AUTH_STRING=a:b\nPREFECT_API_AUTH_STRING=a:b\nPREFECT_CLIENT_MAX_RETRIES=many\n",
    "prefect.toml": "[client.custom_headers]\nAuthorization = 'Basic theirs'\n[tasks]\ndefault_persist_result = true\n",
    "pyproject.toml": "[tool.prefect.results]\npersist_by_default = true\n[tool.prefect.tasks]\ndefault_retries = 3\n",
}


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory, migrated: Any) -> Iterator[str]:
    """A server of ours, started and used where all settings are the user's -> its API's URL."""
    home, folder = migrated(tmp_path_factory.mktemp("prefect")), tmp_path_factory.mktemp("theirs")
    for name, text in FILES.items():
        (folder / name).write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(home))
        patch.setenv("PYTHONPATH", str(Path(server.__file__).parents[2]))
        patch.chdir(folder)
        for name, value in THEIRS.items():
            patch.setenv(name, value)
        with server.embedded_server(services=True) as url:
            yield url


def login() -> dict[str, str]:
    return {"Authorization": f"Basic {b64encode(str(PREFECT_API_AUTH_STRING.value()).encode()).decode()}"}


def test_nobody_is_let_in_without_the_password(ours: str) -> None:
    with httpx.Client(base_url=ours.removesuffix("/api"), trust_env=False) as client:
        known = {f"/api{path}": what for path, what in client.get("/openapi.json").json()["paths"].items()}
        assert len(known) > 100 and {"/api/deployments/", "/api/flows/", "/api/admin/version"} <= set(known)
        others = (
            "/",
            "/api/",
            "/api/docs",
            "/api/redoc",
            "/api/openapi.json",
            "/api/static/",
            "/api/health/",
            "/api/x",
        )
        found = set()
        for path, what in {**known, **dict.fromkeys((*OPEN, *others), ("get",))}.items():
            for method in what:
                answer = client.request(method.upper(), path.replace("{", "").replace("}", ""))
                if answer.status_code == 200:
                    found.add(path)
                else:
                    assert answer.status_code == (404 if path == "/" else 401), (method, path)
    assert found == OPEN


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Basic"},
        {"Authorization": f"Basic {b64encode(b'synthgen:').decode()}"},
        {"Authorization": f"Basic {b64encode(b'None').decode()}"},
        {"Authorization": "Bearer synthgen"},
        {"Host": "evil.example"},
        {"Host": "evil.example/api/health?"},
        {"Origin": "http://evil.example", "Content-Type": "text/plain"},
    ],
)
def test_nor_with_another_one_or_by_a_page_of_another(ours: str, headers: dict[str, str]) -> None:
    for path in ("flows/", "deployments/", "deployments/filter", "work_pools/"):
        assert httpx.post(f"{ours}/{path}", json={}, headers=headers, trust_env=False).status_code == 401


def test_pages_of_others_may_not_read_what_it_says(ours: str) -> None:
    asked = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    with httpx.Client(trust_env=False) as client:
        before = client.options(f"{ours}/flows/filter", headers=asked)
        assert before.status_code == 400 and "access-control-allow-origin" not in before.headers
        for url in (f"{ours}/flows/filter", f"{ours}/health"):
            method = "GET" if url.endswith("health") else "POST"
            answer = client.request(method, url, json={}, headers={**login(), "Origin": "http://evil.example"})
            assert answer.status_code == 200 and "access-control-allow-origin" not in answer.headers


def test_its_sockets_are_closed_to_strangers(ours: str) -> None:
    base, protocol = ours.replace("http", "ws"), [Subprotocol("prefect")]
    ways = ("events/in", "events/out", "logs/out", "task_runs/subscriptions/scheduled", "work_pools/x/workers/connect")
    for url in (f"{base}/{way}" for way in ways):
        with pytest.raises(InvalidHandshake):
            connect(url, proxy=None)
        for token in (None, "", "their:password"):
            with pytest.raises(ConnectionClosed), connect(url, subprotocols=protocol, proxy=None) as socket:
                socket.send(json.dumps({"type": "auth", "token": token}))
                socket.recv(timeout=30)
    with connect(f"{base}/events/in", subprotocols=protocol, proxy=None) as socket:
        socket.send(json.dumps({"type": "auth", "token": PREFECT_API_AUTH_STRING.value()}))
        assert json.loads(socket.recv(timeout=30)) == {"type": "auth_success"}


def test_its_password_is_in_its_environment_only(ours: str, migrated: Any) -> None:
    home, secret = Path(os.environ["PREFECT_HOME"]), str(PREFECT_API_AUTH_STRING.value())
    assert len(secret) > 40
    for file in home.rglob("*"):
        assert not file.is_file() or secret.encode() not in file.read_bytes()
    (record,) = home.glob("server-*.json")
    process = Path("/proc") / record.stem.removeprefix("server-")
    assert secret.encode() in (process / "environ").read_bytes()
    assert stat.S_IMODE((process / "environ").stat().st_mode) == 0o400
    assert secret.encode() not in (process / "cmdline").read_bytes()
    assert server.Server(home, 1, False).password != server.Server(home, 1, False).password


def test_flows_run_on_it_and_their_events_arrive(ours: str) -> None:
    @task
    def one() -> int:
        return 1

    @flow
    def whole() -> int:
        return one()

    assert whole() == 1
    deadline = time.monotonic() + 60
    with get_client(sync_client=True) as client:
        # Task runs come by events only.
        while [task.state_name for task in client.read_task_runs()] != ["Completed"]:
            assert time.monotonic() < deadline
            time.sleep(0.2)
    assert get_current_settings().client.max_retries == 5


def test_processes_that_prefect_starts_can_use_it(ours: str) -> None:
    """As Prefect's runner starts them, for the firings of a schedule."""
    code = (
        "from prefect import get_client, task\n"
        "from prefect.settings import get_current_settings\n"
        "with get_client(sync_client=True) as client:\n"
        "    print(client.hello().status_code, client.read_flow_runs(limit=1) is not None)\n"
        "settings = get_current_settings()\n"
        "print(settings.tasks.default_persist_result, settings.results.persist_by_default, settings.client.max_retries)"
    )
    environment = {**os.environ, **get_current_settings().to_environment_variables(exclude_unset=True)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["200 True", "False False 5"], done.stderr


def test_prefect_is_imported_without_the_files_of_the_folder(ours: str) -> None:
    code = (
        "from synthgen import flow\n"
        "from prefect.settings import get_current_settings\n"
        "settings = get_current_settings()\n"
        "print(settings.client.max_retries, settings.results.persist_by_default, settings.server.api.auth_string)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "5 False None\n", done.stderr


def test_a_flow_is_served_from_a_server_of_the_users_only() -> None:
    """Prefect would start one without a password, which runs what anybody on this machine gives it."""
    root = Path(server.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, root / "flows" / "build_dataset.py", root / "specs" / "quickstart.yaml", "--serve"],
        env={**{k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}, "PYTHONPATH": str(root)},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.endswith("error: --serve needs a Prefect server of yours: set PREFECT_API_URL\n")


def test_a_stranger_at_its_port_is_not_told_the_password(ours: str, monkeypatch: pytest.MonkeyPatch) -> None:
    port = int(ours.rpartition(":")[2].partition("/")[0])
    assert server.port_is_ours(port) and server.port_is_ours(1)  # where nobody listens, nobody is a stranger
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    if Path("/proc/net/tcp").is_file():
        assert not server.port_is_ours(port)
