"""Who is at work in a folder, where a lock may not reach the other host."""

import errno
import fcntl
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from builds import is_halted
from runs import results

from synthgen.base import interrupts
from synthgen.errors import RunError
from synthgen.pipeline.verification import inspect
from synthgen.store import lease
from synthgen.store.export_folder import exporting
from synthgen.store.run import Run

THEIRS = "pid 7 on elsewhere\n00000000-boot 0123456789abcdef\n"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = Run.at(tmp_path, "fruit", 1)
    made.root.mkdir(parents=True)
    return made


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT_SECONDS", 0.05)


def aged(run: Run, content: str, seconds: float) -> None:
    """The folder's lease as another process has left it, so long ago."""
    run.paths.lock.write_text(content)
    then = time.time() - seconds
    os.utime(run.paths.lock, (then, then))


def without_locks(*_: Any) -> None:
    raise OSError(errno.ENOLCK, "no locks available")


@pytest.mark.parametrize("seconds", [0, 50, -50])
def test_a_lease_of_another_host_keeps_us_out(run: Run, seconds: float) -> None:
    aged(run, THEIRS, seconds)
    with (
        pytest.raises(RunError, match=r"another process \(pid 7 on elsewhere\) is at work in .*run-0001; if"),
        run.lock(),
    ):
        pytest.fail("two hosts in one folder")
    assert run.holder() == "pid 7 on elsewhere"
    assert run.paths.lock.read_text() == THEIRS
    assert [p.name for p in run.root.iterdir()] == [".lock"]


@pytest.mark.parametrize(
    ("content", "seconds"),
    [
        (THEIRS, 70),
        (THEIRS, -3600),  # a clock was wrong once: that shall not bar the folder for ever
        ("", 0),
        ("pid 7", 0),
        ("\0\n\n\n", 0),
        (f"pid 999999999 on {platform.node()}\nx y\n", 0),  # of this host, and without its lock: killed
        (f"pid 999999999 on a-container\n{lease.boot_id()} y\n", 0),  # of this machine
    ],
)
def test_a_lease_that_has_ended_is_taken_over(run: Run, content: str, seconds: float) -> None:
    aged(run, content, seconds)
    assert run.holder() == ""
    with run.lock():
        assert run.paths.lock.read_text().startswith(f"pid {os.getpid()} on {platform.node()}\n")
    assert run.paths.lock.read_bytes() == b""


def test_only_the_clock_of_the_store_counts(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    aged(run, THEIRS, 0)
    monkeypatch.setattr(time, "time", lambda: 4e9)
    monkeypatch.setattr(time, "clock_gettime", lambda _: 4e9)
    assert run.holder() == "pid 7 on elsewhere"


def test_a_holder_gives_signs_of_life(run: Run, quickly: None) -> None:
    with run.lock():
        content = run.paths.lock.read_bytes()
        os.utime(run.paths.lock, (1, 1))
        deadline = time.monotonic() + 10
        while run.paths.lock.stat().st_mtime == 1:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert run.paths.lock.read_bytes() == content
        assert [p.name for p in run.root.iterdir()] == [".lock"]
        interrupts.raise_if_stopped()
        run.files.confirm()


@pytest.mark.parametrize("content", [THEIRS, None], ids=["another's", "deleted"])
def test_a_holder_that_has_lost_its_lease_writes_nothing_more(run: Run, quickly: None, content: str | None) -> None:
    with run.lock():
        run.rounds.write(1, {"number": 1})
        run.paths.lock.write_text(content) if content else run.paths.lock.unlink()
        deadline = time.monotonic() + 10
        while not is_halted():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        lost = (
            "^pid 7 on elsewhere has taken over "
            if content
            else f"^{run.root} has been moved or removed, or its lock, "
        )
        for write in (
            interrupts.raise_if_stopped,
            lambda: run.rounds.write(2, {"number": 2}),
            lambda: run.marks.commit("plan", 0, "x", []),
            lambda: run.marks.commit_batch(0, 0, "x", []),
            lambda: run.facts.write_spec({"name": "x"}),
            lambda: run.tables.write_jobs(0, []),
            lambda: run.marks.withdraw("judge"),
            lambda: exporting(run, "coco", "x").__enter__(),
        ):
            with pytest.raises(RunError, match=f"{lost}.*; it stops and writes nothing more") as stop:
                write()
            assert stop.value.exit_code == 2
    interrupts.raise_if_stopped()  # that was of that run only
    assert run.paths.lock.exists() == bool(content)
    if content:
        assert run.paths.lock.read_text() == content
    assert [p.name for p in run.root.rglob("*") if p.is_file() and p != run.paths.lock] == ["round-0001.json"]


def test_who_has_slept_looks_before_it_writes(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """However soon after waking, and before the next sign of life."""
    with run.lock():
        aged(run, THEIRS, 0)
        run.files.confirm()  # another cannot have come so soon, so nobody looks
        now = time.clock_gettime(lease._CLOCK)
        monkeypatch.setattr(time, "clock_gettime", lambda _: now + 3600)
        with pytest.raises(RunError, match=r"^pid 7 on elsewhere has taken over .* no sign of life for 3600 s"):
            run.marks.commit("plan", 0, "x", [])
    assert not (run.root / "commits").exists()


def test_a_store_without_locks(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lease alone decides there, among processes of one host too."""
    monkeypatch.setattr(fcntl, "flock", without_locks)
    with run.lock():
        assert run.holder().startswith(f"pid {os.getpid()} on ")
        with pytest.raises(RunError, match=rf"another process \(pid {os.getpid()} on .*\) is at work in "), run.lock():
            pytest.fail("twice in one folder")
    assert run.holder() == ""
    with run.lock():
        pass


# The real thing: a run on "another host", which sleeps for longer than its lease.

WORKER = """
import fcntl, platform, sys
from pathlib import Path
import yaml
from synthgen.store import lease
fcntl.flock = lambda *_: None  # whose locks do not reach us
platform.node, lease.boot_id, lease.LEASE_SECONDS = lambda: "laptop", lambda: "its-boot", 1.0
from synthgen.errors import SynthgenError
from synthgen.pipeline.build import Build
from synthgen.pipeline.plan import plan_shards
from synthgen.pipeline.measure import measure_shard
from synthgen.pipeline.label import label_shard
from synthgen.pipeline.generate import generate_shard
from synthgen.spec import DatasetSpec
from synthgen.pipeline.check import check
from synthgen.store.run import Run

spec, out = DatasetSpec.parse(yaml.safe_load(Path(sys.argv[1]).read_text())), Path(sys.argv[2])
run = Run.at(out, spec.name, 1)
try:
    with run.lock():
        build = Build.start(run, spec, check(spec, out))
        plan_shards(build)
        for shard in build.pending():
            generate_shard(build, shard), label_shard(build, shard), measure_shard(build, shard)
except SynthgenError as error:
    sys.exit(f"{error.exit_code}: {error}")
"""


def tree(root: Path) -> dict[str, tuple[bytes, int]]:
    return {str(p): (p.read_bytes(), p.stat().st_mtime_ns) for p in root.rglob("*") if p.is_file()}


def test_a_run_that_slept_stops_and_the_one_that_took_over_is_whole(
    quick: Any, spec_file: Any, run_through: Any, finished: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "LEASE_SECONDS", 1.0)
    run = Run.at(tmp_path / "out", "fruit", 1)
    command = [sys.executable, "-c", WORKER, spec_file(quick), run.root.parent.parent]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as sleeper:
        try:
            deadline = time.monotonic() + 200
            while not list(run.root.glob("images/*/*.png")):
                assert sleeper.poll() is None and time.monotonic() < deadline
                time.sleep(0.005)
            with pytest.raises(RunError, match="is at work in"), run.lock():
                pytest.fail("two hosts in one folder")
            sleeper.send_signal(signal.SIGSTOP)
            time.sleep(1.5)
            build = run_through(quick, tmp_path / "out")
            before = tree(run.root)
            sleeper.send_signal(signal.SIGCONT)
            _, said = sleeper.communicate(timeout=100)
        finally:
            sleeper.kill()
    assert sleeper.returncode == 1 and said.count("\n") == 1
    assert said.startswith("2: another process has taken over ")
    assert tree(run.root) == before
    assert build.is_complete() and inspect(build).damages == ()
    assert results(run.root) == results(finished.run.root)
