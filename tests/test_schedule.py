"""Datasets made by the clock: when a schedule fires, what a firing makes, and what was missed."""

import errno
import fcntl
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
from synthgen.base.files import write_sealed
from synthgen.dataset.growth import Growth
from synthgen.dataset.history import is_finished
from synthgen.errors import SpecError
from synthgen.orchestration import timetable as clock
from synthgen.orchestration.profile import Profile
from synthgen.orchestration.timetable import LATE, Log, Timetable
from synthgen.pipeline.build import Build
from synthgen.spec import DatasetSpec
from synthgen.store.run import Run

SYNTHGEN = [sys.executable, "-m", "synthgen.cli"]
ROOT = Path(__file__).parent.parent


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def clocks(timetable: Timetable, start: str, count: int) -> list[str]:
    return [t.strftime("%m-%d %H:%M") for t in timetable.after(utc(start), count)]


# When it fires


@pytest.mark.parametrize(
    ("cron", "start", "expected"),
    [
        # Clocks go from 02:00 to 03:00 (UTC+1 to UTC+2) on 2026-03-29: half past two is not there, and an hour later.
        ("30 2 * * *", "2026-03-27 12:00", ["03-28 01:30", "03-29 01:30", "03-30 00:30"]),
        ("0 9 * * *", "2026-03-27 12:00", ["03-28 08:00", "03-29 07:00", "03-30 07:00"]),
        # They go from 03:00 to 02:00 on 2026-10-25: half past two is there twice, and fires once.
        ("30 2 * * *", "2026-10-23 12:00", ["10-24 00:30", "10-25 00:30", "10-26 01:30"]),
        ("0 9 * * *", "2026-10-23 12:00", ["10-24 07:00", "10-25 08:00", "10-26 08:00"]),
    ],
)
def test_a_named_zone_over_its_summer_time(cron: str, start: str, expected: list[str]) -> None:
    assert clocks(Timetable("Europe/Berlin", cron), start, 3) == expected


def test_the_southern_summer_is_the_other_way_round() -> None:
    # Sydney goes back from UTC+11 to UTC+10 on 2026-04-05, and on again on 2026-10-04.
    assert clocks(Timetable("Australia/Sydney", "0 9 * * *"), "2026-04-04 00:00", 2) == ["04-04 23:00", "04-05 23:00"]
    assert clocks(Timetable("Australia/Sydney", "0 9 * * *"), "2026-10-02 00:00", 2) == ["10-02 23:00", "10-03 22:00"]


def test_an_interval_of_a_day_keeps_its_hour_and_one_of_hours_does_not() -> None:
    anchor = "2026-01-01T08:00:00+00:00"  # nine in Berlin
    day = Timetable("Europe/Berlin", interval=86400, anchor=anchor)
    assert clocks(day, "2026-03-28 00:00", 3) == ["03-28 08:00", "03-29 07:00", "03-30 07:00"]
    hours = Timetable("Europe/Berlin", interval=6 * 3600, anchor=anchor)
    assert clocks(hours, "2026-03-28 20:00", 4) == ["03-29 02:00", "03-29 08:00", "03-29 14:00", "03-29 20:00"]


def test_the_machine_s_own_zone_does_not_matter() -> None:
    code = (
        "from datetime import UTC, datetime\n"
        "from synthgen.orchestration.timetable import Timetable\n"
        "start = datetime(2026, 3, 27, 12, tzinfo=UTC)\n"
        "for t in (Timetable('Europe/Berlin', '30 2 * * *'), Timetable('UTC', '30 2 * * *'),\n"
        "          Timetable('UTC', interval=7200, anchor='2026-01-01T00:00:00+00:00')):\n"
        "    print([int(at.timestamp()) for at in t.after(start, 5)], [t.shown(at) for at in t.after(start, 5)])\n"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "TZ": zone}, capture_output=True, text=True, check=True
        ).stdout
        for zone in ("America/New_York", "Asia/Tokyo", "UTC")
    ]
    assert said[0] == said[1] == said[2]
    assert "2026-03-29 03:30:00 CEST" in said[0] and "2026-03-29 02:30:00 UTC" in said[0]


def test_an_interval_goes_on_in_the_same_step_after_a_restart() -> None:
    first = Timetable.every(60, "UTC", None)
    assert Timetable.every(60, "UTC", first) is first
    assert Timetable.every(90, "UTC", first).interval == 90
    (soon,) = first.after(clock.now(), 1)
    assert timedelta(0) < soon - clock.now() <= timedelta(seconds=60)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"timezone": "Mars/Olympus", "cron": "0 2 * * *"}, "--timezone: got 'Mars/Olympus'; takes a name of"),
        ({"timezone": "UTC", "cron": "2 o'clock"}, '--cron: got "2 o\'clock"; takes minute, hour'),
        ({"timezone": "UTC", "cron": "0 0 30 2 *"}, "--cron: got '0 0 30 2 *'; takes minute, hour"),
        ({"timezone": "UTC"}, "--cron: give it or --interval"),
        ({"timezone": "UTC", "cron": "0 2 * * *", "interval": 60.0}, "--cron: give it or --interval"),
    ],
)
def test_what_is_no_timetable_is_told_in_a_line(options: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError) as caught:
        Timetable(**options)
    assert str(caught.value).startswith(words) and "\n" not in str(caught.value)


# What was missed


HOURLY = Timetable("UTC", "0 * * * *")


def test_times_that_nobody_fired_for_are_missed(tmp_path: Path) -> None:
    log = Log(tmp_path / "fruit")
    assert log.timetable is None
    assert log.account(HOURLY, utc("2026-05-01 10:20")) == []  # it begins; nothing was due before
    assert log.account(HOURLY, utc("2026-05-01 11:00")) == []
    assert log.account(HOURLY, utc("2026-05-01 12:00")) == []
    # The server is down for three hours.
    assert log.account(HOURLY, utc("2026-05-01 16:00")) == [utc(f"2026-05-01 {h}:00") for h in (13, 14, 15)]
    assert log.account(HOURLY, utc("2026-05-01 17:00")) == []
    # The machine is off for the night, and `schedule` is started in the morning.
    assert len(log.account(HOURLY, utc("2026-05-02 07:30")) or []) == 14
    assert log.account(HOURLY, utc("2026-05-02 08:00")) == []
    assert log.timetable == HOURLY
    missed = [f["time"] for f in log.read()["firings"] if f["outcome"] == "missed"]
    assert len(missed) == 17 and missed == sorted(missed)


def test_a_firing_of_a_time_that_was_told_of_is_none_any_more(tmp_path: Path) -> None:
    log = Log(tmp_path)
    log.account(HOURLY, utc("2026-05-01 10:20"))
    log.account(HOURLY, utc("2026-05-01 13:30"))
    assert log.account(HOURLY, utc("2026-05-01 12:00")) is None
    assert log.account(HOURLY, utc("2026-05-01 14:00")) == []


def test_missed_times_are_those_of_the_timetable_that_held_then(tmp_path: Path) -> None:
    log = Log(tmp_path)
    log.account(HOURLY, utc("2026-05-01 10:20"))
    nightly = Timetable("UTC", "0 2 * * *")
    assert log.account(nightly, utc("2026-05-01 12:30")) == [utc("2026-05-01 11:00"), utc("2026-05-01 12:00")]
    assert log.account(nightly, utc("2026-05-03 02:00")) == [utc("2026-05-02 02:00")]


def test_too_late_is_when_the_next_is_due_and_minutes_have_gone_by() -> None:
    due, minutely = utc("2026-05-01 10:00"), Timetable("UTC", "* * * * *")
    assert not HOURLY.is_past(due, due)
    assert not HOURLY.is_past(due, due + timedelta(minutes=59))  # late, and still the last that was due
    assert HOURLY.is_past(due, due + timedelta(minutes=60))
    assert not minutely.is_past(due, due + LATE)
    assert minutely.is_past(due, due + LATE + timedelta(seconds=1))


def test_who_was_at_work_when_a_firing_was_due(tmp_path: Path) -> None:
    log, nine, ten = Log(tmp_path), utc("2026-05-01 09:00"), utc("2026-05-01 10:00")
    log.note(nine, run=1, started="2026-05-01T09:00:05+00:00")
    assert not log.was_at_work(ten)  # it may have been killed: the run's lock knows
    log.note(nine, ended="2026-05-01T11:15:00+00:00")
    assert log.was_at_work(ten) and not log.was_at_work(utc("2026-05-01 12:00"))
    assert not log.was_at_work(nine)  # it is itself no other
    log.note(nine, ended="2026-05-01T09:59:00+00:00")
    assert not log.was_at_work(ten)


def test_a_log_where_the_file_system_has_no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_locks(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", without_locks)
    Log(tmp_path).note(utc("2026-05-01 09:00"), outcome="made")
    assert Log(tmp_path).read()["firings"] == [{"time": "2026-05-01T09:00:00+00:00", "outcome": "made"}]


def test_the_log_is_bounded_and_a_damaged_one_begins_anew(tmp_path: Path) -> None:
    log = Log(tmp_path)
    log.account(Timetable("UTC", "* * * * *"), utc("2026-05-01 00:00"))
    log.account(Timetable("UTC", "* * * * *"), utc("2026-05-01 12:00"))
    assert len(log.read()["firings"]) == clock.FIRINGS
    assert log.read()["firings"][-1]["time"] == "2026-05-01T11:59:00+00:00"
    log.file.write_bytes(log.file.read_bytes().replace(b"11:59", b"11:58"))
    assert log.read()["firings"] == []
    assert log.account(HOURLY, utc("2026-05-01 13:00")) == []


def test_what_was_missed_is_told_in_a_line() -> None:
    from synthgen.schedule import tell

    berlin = Timetable("Europe/Berlin", "0 2 * * *")
    nights = berlin.after(utc("2026-03-28 12:00"), 2)
    assert tell("fruit", berlin, nights) == (
        "fruit: 2 firings were missed, 2026-03-29 03:00:00 CEST to 2026-03-30 02:00:00 CEST; nothing was made then"
    )
    assert tell("fruit", berlin, nights[1:]) == (
        "fruit: a firing was missed, 2026-03-30 02:00:00 CEST; nothing was made then"
    )
    minutely = Timetable("UTC", "* * * * *")
    week = minutely.between(utc("2026-05-01 00:00"), utc("2026-05-08 00:00"))
    assert tell("fruit", minutely, week) == (
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

    raw = Build.open(folder / "run-0001").run.facts.read_spec()
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
    second = Build.open(copied / "fruit" / "run-0002")
    quality = second.quality()
    assert quality and is_finished(second)
    assert state.is_completed() and state.name == ("Short" if quality.is_short else "Completed")
    assert state.message is not None and state.message.startswith(f"run 2: {quality.accepted} of 8 images accepted")
    said = Growth.read(copied / "fruit" / "dataset" / "dataset.json")
    assert said and [part.run for part in said.runs] == [1, 2]
    (firing,) = Log(copied / "fruit").read()["firings"]
    assert (firing["run"], firing["outcome"]) == (2, "made")
    assert firing["time"] <= firing["started"] < firing["ended"]


def test_a_firing_into_an_object_store(
    server: str, spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next number is that of the store, whatever the machine that fires has of it."""
    from synthgen.schedule import build_next
    from synthgen.store.mirror import address, place

    url = f"file://{tmp_path}/store"
    for number, machine in enumerate(("first", "first", "second"), 1):
        monkeypatch.setenv("SYNTHGEN_HOME", str(tmp_path / machine))
        state = build_next(spec, url, return_state=True)
        assert state.is_completed() and state.message and state.message.startswith(f"run {number}: ")
        assert is_finished(Build.open(place(url) / "fruit" / f"run-{number:04d}"))
        assert address(place(url)) == url and address(tmp_path) == str(tmp_path)
    runs = sorted(p.name for p in (tmp_path / "store" / "fruit").iterdir())
    assert runs == ["dataset", "run-0001", "run-0002", "run-0003"]
    assert [f["run"] for f in Log(place(url) / "fruit").read()["firings"]] == [3]
    said = Growth.read(place(url) / "fruit" / "dataset" / "dataset.json")
    assert said and [part.run for part in said.runs] == [1, 2, 3]
    monkeypatch.setenv("SYNTHGEN_HOME", str(tmp_path / "first"))
    with Run.at(place(url), "fruit", 3).lock():
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
    second = Build.open(copied / "fruit" / "run-0002")
    assert state.is_completed() and is_finished(second)
    assert len(started) == len(list(second.run.marks.shards()))


def test_a_firing_while_the_last_run_is_going_is_skipped(server: str, spec: Path, copied: Path) -> None:
    from synthgen.schedule import build_next

    with Run.at(copied, "fruit", 1).lock():
        state = build_next(spec, copied, return_state=True)
    assert (state.name, state.is_completed()) == ("Skipped", True)
    assert state.message == f"{Log(copied / 'fruit').read()['firings'][0]['why']} is still going"
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
    (firing,) = Log(copied / "fruit").read()["firings"]
    assert (firing["run"], firing["outcome"]) == (2, "made")
    assert datetime.fromisoformat(firing["started"]) >= freed[0]


def test_a_firing_that_fails_says_so_and_is_on_record(server: str, spec: Path, copied: Path) -> None:
    from synthgen.schedule import build_next

    state = build_next(spec, copied, ("generator.model=/nowhere",), return_state=True)
    assert state.is_failed()
    with pytest.raises(SpecError, match=r"^generator\.model: "):
        state.result()
    (firing,) = Log(copied / "fruit").read()["firings"]
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
    log = Log(copied / "fruit")
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
        served = Log(copied / "fruit")
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


@pytest.mark.parametrize("cron", ["0 0 2 * * *", "0 2 * * * 30", "0 2 * * * 2030 1", "0 2 * *", "", "* * * * * *"])
def test_a_cron_line_has_five_fields(cron: str) -> None:
    """Of six, seconds come first in Quartz and last in croniter, which would fire every second."""
    with pytest.raises(SpecError, match="takes minute, hour, day, month and weekday, such as '0 2"):
        Timetable("UTC", cron=cron)
    assert Timetable("UTC", cron=" 0 2 * * 1-5 ").cron


def test_a_timetable_that_is_refused_now_does_not_stop_a_new_one(tmp_path: Path) -> None:
    """Earlier versions took cron lines of six fields, and their logs say so."""
    log, good = Log(tmp_path), Timetable("UTC", cron="0 2 * * *")
    start = datetime(2026, 1, 1, tzinfo=UTC)
    log.account(good, start)
    raw = log.read()
    raw["timetable"]["cron"] = "0 0 2 * * *"
    write_sealed(log.file, raw)
    assert log.timetable is None
    assert log.account(good, start + timedelta(days=3)) == []
    assert log.timetable == good
