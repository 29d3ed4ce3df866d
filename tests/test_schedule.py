"""Datasets made by the clock: when a schedule fires, what a firing makes, and what was missed."""

import inspect
import os
import re
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from synthgen import flow as _flow  # noqa: F401  # before Prefect: its settings
from synthgen.dataset.growth import Growth
from synthgen.dataset.history import is_finished
from synthgen.errors import SpecError
from synthgen.orchestration import timetable as clock
from synthgen.orchestration.firings import FiringLog
from synthgen.orchestration.profile import Profile
from synthgen.orchestration.timetable import Timetable
from synthgen.pipeline.build import Build
from synthgen.spec import DatasetSpec
from synthgen.store.run import Run

SYNTHGEN = [sys.executable, "-m", "synthgen.cli"]
ROOT = Path(__file__).parent.parent


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


# What was missed


def test_what_was_missed_is_told_in_a_line() -> None:
    from synthgen.schedule import missed_line

    berlin = Timetable("Europe/Berlin", "0 2 * * *")
    nights = berlin.after(utc("2026-03-28 12:00"), 2)
    assert missed_line("fruit", berlin, nights) == (
        "fruit: 2 firings were missed, 2026-03-29 03:00:00 CEST to 2026-03-30 02:00:00 CEST; nothing was made then"
    )
    assert missed_line("fruit", berlin, nights[1:]) == (
        "fruit: a firing was missed, 2026-03-30 02:00:00 CEST; nothing was made then"
    )
    minutely = Timetable("UTC", "* * * * *")
    week = minutely.between(utc("2026-05-01 00:00"), utc("2026-05-08 00:00"))
    assert missed_line("fruit", minutely, week) == (
        "fruit: 1,000 firings and more were missed, from 2026-05-01 00:01:00 UTC on; nothing was made then"
    )


# What a firing makes


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prefect server with its files in a folder of its own -> its API's URL."""
    home = tmp_path_factory.mktemp("prefect")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(home))
        patch.setenv("PREFECT_LOGGING_LEVEL", "CRITICAL")
        patch.setenv("DO_NOT_TRACK", "1")
        from prefect.settings import PREFECT_API_URL
        from prefect.testing.utilities import prefect_test_harness

        with prefect_test_harness(server_startup_timeout=180):
            yield str(PREFECT_API_URL.value())


@pytest.fixture
def spec(finished: Build, tmp_path: Path) -> Path:
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(finished.run.facts.read_spec() | {"grow": True}, sort_keys=False))
    return path


def next_number(folder: Path, **changes: Any) -> int:
    from synthgen.schedule import number_of_next

    raw = Build.open(Run(folder / "run-0001")).run.facts.read_spec()
    return number_of_next(folder, DatasetSpec.parse(raw | changes))


def test_the_first_run_and_the_one_after_a_finished_one(copied: Path, finished: Build, tmp_path: Path) -> None:
    from synthgen.schedule import number_of_next

    assert number_of_next(tmp_path / "none", finished.spec) == 1
    assert next_number(copied / "fruit") == 2


def test_an_unfinished_run_is_gone_on_with_unless_it_is_of_other_images(copied: Path) -> None:
    (copied / "fruit" / "run-0001" / "commits" / "report.json").unlink()
    assert next_number(copied / "fruit") == 1
    assert next_number(copied / "fruit", count=80) == 1
    assert next_number(copied / "fruit", seed=9) == 2


def test_thresholds_and_reviews_that_wait_are_no_reason_to_go_on(copied: Path) -> None:
    run = Run(copied / "fruit" / "run-0001")
    assert next_number(copied / "fruit", count=80) == 2
    run.paths.reviews.write_bytes(b"no line that can be read\n")
    assert next_number(copied / "fruit") == 2


def test_a_run_whose_spec_is_damaged_is_made_whole(copied: Path, finished: Build) -> None:
    from synthgen.schedule import number_of_next

    (copied / "fruit" / "run-0001" / "spec.yaml").write_text("name: [")
    assert number_of_next(copied / "fruit", finished.spec) == 1


def test_who_is_at_work(copied: Path) -> None:
    from synthgen.schedule import at_work

    assert at_work(copied / "none") == at_work(copied / "fruit") == ""
    with Run.at(copied, "fruit", 2).lock():  # just begun: there is no spec in it yet
        assert at_work(copied / "fruit").startswith(f"run 2 (pid {os.getpid()}")
    assert at_work(copied / "fruit") == ""


def test_a_firing_makes_the_next_run_and_grows_the_dataset(server: str, spec: Path, copied: Path) -> None:
    from synthgen.schedule import build_next

    state = build_next(spec, copied, return_state=True)
    second = Build.open(Run(copied / "fruit" / "run-0002"))
    quality = second.quality()
    assert quality and is_finished(second)
    assert state.is_completed() and state.name == ("Short" if quality.is_short else "Completed")
    assert state.message is not None and state.message.startswith(f"run 2: {quality.accepted} of 8 images accepted")
    said = Growth.read(copied / "fruit" / "dataset" / "dataset.json")
    assert said and [part.run for part in said.runs] == [1, 2]
    (firing,) = FiringLog(copied / "fruit").read()["firings"]
    assert (firing["run"], firing["outcome"]) == (2, "made")
    assert firing["time"] <= firing["started"] < firing["ended"]


def test_a_firing_into_an_object_store(
    server: str, spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next number is that of the store, whatever the machine that fires has of it."""
    from synthgen.schedule import build_next
    from synthgen.store.location import address, local_folder

    url = f"file://{tmp_path}/store"
    for number, machine in enumerate(("first", "first", "second"), 1):
        monkeypatch.setenv("SYNTHGEN_HOME", str(tmp_path / machine))
        state = build_next(spec, url, return_state=True)
        assert state.is_completed() and state.message and state.message.startswith(f"run {number}: ")
        assert is_finished(Build.open(Run(local_folder(url) / "fruit" / f"run-{number:04d}")))
        assert address(local_folder(url)) == url and address(tmp_path) == str(tmp_path)
    runs = sorted(p.name for p in (tmp_path / "store" / "fruit").iterdir())
    assert runs == ["dataset", "run-0001", "run-0002", "run-0003"]
    assert [f["run"] for f in FiringLog(local_folder(url) / "fruit").read()["firings"]] == [3]
    said = Growth.read(local_folder(url) / "fruit" / "dataset" / "dataset.json")
    assert said and [part.run for part in said.runs] == [1, 2, 3]
    monkeypatch.setenv("SYNTHGEN_HOME", str(tmp_path / "first"))
    with Run.at(local_folder(url), "fruit", 3).lock():
        monkeypatch.setenv("SYNTHGEN_HOME", str(tmp_path / "third"))  # has nothing of it
        assert build_next(spec, url, return_state=True).name == "Skipped"


def test_a_firing_is_computed_where_the_profile_says(
    server: str, spec: Path, copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads stand for the workers of a cluster."""
    from prefect.task_runners import ThreadPoolTaskRunner

    from synthgen.schedule import build_next

    started: list[int] = []

    class Threads(ThreadPoolTaskRunner):  # type: ignore[type-arg]
        def submit(self, *arguments: Any, **options: Any) -> Any:
            started.append(1)
            return super().submit(*arguments, **options)

    monkeypatch.setattr(Profile, "task_runner", lambda self: Threads(max_workers=self.workers))
    monkeypatch.setattr(Profile, "options", lambda self: nullcontext())
    profile = tmp_path / "ray.yaml"
    profile.write_text("{runner: ray, workers: 1, shards_at_once: 1}")
    state = build_next(spec, copied, profile=profile, return_state=True)
    second = Build.open(Run(copied / "fruit" / "run-0002"))
    assert state.is_completed() and is_finished(second)
    assert len(started) == len(list(second.run.marks.shards()))


def test_a_firing_while_the_last_run_is_going_is_skipped(server: str, spec: Path, copied: Path) -> None:
    from synthgen.schedule import build_next

    with Run.at(copied, "fruit", 1).lock():
        state = build_next(spec, copied, return_state=True)
    assert (state.name, state.is_completed()) == ("Skipped", True)
    assert state.message == f"{FiringLog(copied / 'fruit').read()['firings'][0]['why']} is still going"
    assert not (copied / "fruit" / "run-0002").exists()


def test_or_waits(server: str, spec: Path, copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from synthgen import schedule

    monkeypatch.setattr(schedule, "POLL_SECONDS", 0.1)
    held, freed = threading.Event(), []

    def hold() -> None:
        with Run.at(copied, "fruit", 1).lock():
            held.set()
            time.sleep(3)
            freed.append(clock.now())

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    state = schedule.build_next(spec, copied, overlap="wait", return_state=True)
    thread.join()
    assert state.is_completed() and state.name != "Skipped"
    (firing,) = FiringLog(copied / "fruit").read()["firings"]
    assert (firing["run"], firing["outcome"]) == (2, "made")
    assert datetime.fromisoformat(firing["started"]) >= freed[0]


def test_a_firing_that_fails_says_so_and_is_on_record(server: str, spec: Path, copied: Path) -> None:
    from synthgen.schedule import build_next

    state = build_next(spec, copied, ("generator.model=/nowhere",), return_state=True)
    assert state.is_failed()
    with pytest.raises(SpecError, match=r"^generator\.model: "):
        state.result()
    (firing,) = FiringLog(copied / "fruit").read()["firings"]
    assert (firing["run"], firing["outcome"]) == (2, "failed")


# As people start it


def start(*arguments: Any, **environment: str) -> subprocess.Popen[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "COLUMNS"))}
    return subprocess.Popen(
        [*SYNTHGEN, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**kept, **environment}, start_new_session=True,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_schedule_needs_no_server_and_leaves_none_behind(
    spec: Path, copied: Path, tmp_path: Path, migrated: Any
) -> None:
    """On a laptop: it starts a server that looks after schedules, fires, and ends it with itself."""
    log = FiringLog(copied / "fruit")
    log.account(Timetable("UTC", interval=7200, anchor="2026-01-01T00:00:00+00:00"), clock.now() - timedelta(hours=5))
    home = migrated(tmp_path / "prefect")
    process = start("schedule", spec, "--interval", "20", "--out", copied, PREFECT_HOME=str(home))
    try:
        deadline = time.monotonic() + 600
        while not any(f["outcome"] == "made" for f in log.read()["firings"] if "outcome" in f):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(1)
    finally:
        os.killpg(process.pid, signal.SIGINT)
        said, told = process.communicate(timeout=120)
    assert process.returncode == 0, told
    assert said.startswith("fruit: every 20 s; next ")
    assert "fruit: 2 firings were missed, " in told or "fruit: 3 firings were missed, " in told
    assert Growth.read(copied / "fruit" / "dataset" / "dataset.json")
    assert not list(home.glob("server-*.json"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_server_that_goes_away_is_waited_for(spec: Path, copied: Path, tmp_path: Path, migrated: Any) -> None:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    url, home = f"http://127.0.0.1:{port}/api", str(migrated(tmp_path / "prefect"))
    # It gives up soon, so that the test is a short one.
    quick = {
        "PREFECT_RUNNER_POLL_FREQUENCY": "1",
        "PREFECT_CLIENT_MAX_RETRIES": "0",
        "PREFECT_LOGGING_LEVEL": "CRITICAL",
    }
    environment = {**os.environ, **quick, "PREFECT_API_URL": url, "PREFECT_HOME": home}
    command = [
        sys.executable,
        "-m",
        "prefect",
        "server",
        "start",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--no-ui",
    ]

    def start_server() -> subprocess.Popen[bytes]:
        quiet = subprocess.DEVNULL
        return subprocess.Popen(command, env=environment, stdout=quiet, stderr=quiet, start_new_session=True)

    # Nothing is there yet when it starts, as after a boot.
    arguments = ("schedule", spec, "--interval", "20", "--out", copied)
    process = start(*arguments, **quick, PREFECT_API_URL=url, PREFECT_HOME=home)
    assert process.stderr is not None
    silent = f"fruit: Prefect's server at {url} does not answer\n"
    server = None
    try:
        assert process.stderr.readline() == silent
        server = start_server()
        served = FiringLog(copied / "fruit")
        deadline = time.monotonic() + 600
        while not any(f.get("outcome") == "made" for f in served.read()["firings"]):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(1)
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        while process.stderr.readline() != silent:
            assert process.poll() is None and time.monotonic() < deadline
        server = start_server()
        while sum(f.get("outcome") == "made" for f in served.read()["firings"]) < 2:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(1)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.communicate(timeout=120)
        if server:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
    assert process.returncode == 0


def test_ctrl_c_ends_a_schedule_as_sigterm_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its tasks are at: a task that is cancelled may lose that."""
    from prefect.runner import Runner

    from synthgen.schedule import ended_by_ctrl_c

    told: list[int] = []
    monkeypatch.setattr(Runner, "handle_sigterm", lambda self, number, frame: told.append(number))
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    try:
        with ended_by_ctrl_c():
            with pytest.raises(KeyboardInterrupt):  # it has not begun
                signal.raise_signal(signal.SIGINT)
            signal.signal(signal.SIGTERM, Runner().handle_sigterm)
            signal.raise_signal(signal.SIGINT)
            assert told == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGTERM, before[0])
    assert signal.getsignal(signal.SIGINT) == before[1]


def test_runs_of_a_spec(spec: Path, copied: Path) -> None:
    process = start("runs", spec, "--out", copied)
    said, told = process.communicate(timeout=120)
    assert (process.returncode, told) == (0, "")
    quality = orjson.loads((copied / "fruit" / "run-0001" / "quality.json").read_bytes())
    line = said.splitlines()[1].split()
    assert line[:6] == ["1", "finished", "8", str(quality["accepted"]), "of", "8"]
    process = start("runs", spec, "--out", copied / "none")
    said, told = process.communicate(timeout=120)
    assert (process.returncode, said) == (2, "")
    assert told.startswith("error: there are no runs in ") and told.count("\n") == 1


# What is written down


def blocks(language: str) -> list[str]:
    text = (ROOT / "docs" / "schedules.md").read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def prefect(server: str, *arguments: Any) -> str:
    environment = {**os.environ, "PREFECT_API_URL": server}
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", *map(str, arguments)], cwd=ROOT, env=environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prefect_yaml_can_be_deployed(server: str) -> None:
    from prefect import get_client

    prefect(server, "work-pool", "create", "--type", "process", "synthgen")
    prefect(server, "deploy", "--all", "--prefect-file", "flows/prefect.yaml")
    with get_client(sync_client=True) as client:
        found = {d.name: d for d in client.read_deployments()}
    assert set(found) == {"nightly", "once"}
    for deployment in found.values():
        path, _, name = str(deployment.entrypoint).partition(":")
        module = runpy.run_path(str(ROOT / path), run_name="deployed")
        assert set(deployment.parameters) <= set(inspect.signature(module[name].fn).parameters)
        assert DatasetSpec.parse(yaml.safe_load((ROOT / deployment.parameters["spec"]).read_text()))
    (nightly,) = found["nightly"].schedules
    assert (nightly.active, getattr(nightly.schedule, "cron", "")) == (True, "0 2 * * *")


def test_the_automations_in_the_docs_are_ones(server: str, tmp_path: Path) -> None:
    from prefect import get_client

    (told,) = [b for b in blocks("yaml") if b.startswith("# told.yaml")]
    (tmp_path / "told.yaml").write_text(told)
    prefect(server, "automation", "create", "--from-file", tmp_path / "told.yaml")
    with get_client(sync_client=True) as client:
        found = client.read_automations()
    assert {a.name for a in found} == {a["name"] for a in yaml.safe_load(told)["automations"]}
    code = (ROOT / "synthgen" / "schedule.py").read_text(encoding="utf-8")
    named = {event for a in found for event in a.trigger.expect}  # type: ignore[union-attr]
    for event in named:
        assert f'"{event.removeprefix("prefect.flow-run.")}"' in code or event.endswith(
            ("Failed", "Crashed", "Completed")
        )
    assert "next-run" in code


def test_compose_yaml_names_what_there_is() -> None:
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    services = compose["services"]
    assert set(services) == {"database", "server", "deploy", "worker"}
    for service in services.values():
        assert set(service.get("depends_on", {})) <= set(services)
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            assert source in compose["volumes"] or (ROOT / source).is_dir()
    pools = {
        d["work_pool"]["name"] for d in yaml.safe_load((ROOT / "flows" / "prefect.yaml").read_text())["deployments"]
    }
    (pool,) = pools
    assert services["worker"]["command"] == ["prefect", "worker", "start", "--pool", pool]
    script = services["deploy"]["command"][-1]
    assert f"--type process {pool} " in script and "--prefect-file flows/prefect.yaml" in script
    assert services["worker"]["environment"]["PREFECT_API_URL"] == "http://server:4200/api"


def test_the_image_has_what_its_commands_need() -> None:
    """What is copied into it is there, and not left out by .dockerignore."""
    copied = re.findall(r"^COPY (.*) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    names = {name for line in copied for name in line.split()}
    assert all((ROOT / name).exists() for name in names)
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert ignored[0] == "*"
    assert names == {line.removeprefix("!") for line in ignored if line.startswith("!")}
    assert {"flows", "specs", "synthgen", "pyproject.toml"} <= names
