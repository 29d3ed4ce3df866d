"""Ctrl-C, SIGTERM and SIGHUP, sent to the real command."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from synthgen.cli import main
from synthgen.errors import RunError
from synthgen.interrupts import Interrupted, checkpoint, ended_by_signals, halt, stoppable
from synthgen.pipeline import Build

SPEC = """
name: stopped
count: 6
height: 128
width: 128
shard_size: 6
classes: [apple, car]
prompts: {templates: ["a photo of {objects} on grass"]}
layout: {}
generator: {num_inference_steps: 6, batch_size: 2}
filters: {}
"""


def test_a_checkpoint_raises_once_an_end_was_asked_for() -> None:
    checkpoint()
    with stoppable():
        checkpoint()
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted, match="the same command goes on"):
            checkpoint()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    checkpoint()


@pytest.fixture
def hang_up() -> Iterator[None]:
    before = signal.getsignal(signal.SIGHUP)
    yield
    signal.signal(signal.SIGHUP, before)


def test_the_end_of_the_terminal_comes_twice_and_is_one_wish(hang_up: None) -> None:
    with ended_by_signals(), stoppable():
        for _ in range(2):
            signal.raise_signal(signal.SIGHUP)
        with pytest.raises(Interrupted):
            checkpoint()


def test_it_is_no_wish_under_nohup(hang_up: None) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with ended_by_signals(), stoppable():
        signal.raise_signal(signal.SIGHUP)
        checkpoint()
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("interrupt", [signal.default_int_handler, signal.SIG_IGN])
def test_other_ends_are_those_of_ctrl_c(hang_up: None, number: signal.Signals, interrupt: Any) -> None:
    before = signal.signal(signal.SIGINT, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt), ended_by_signals():
            signal.raise_signal(number)
    finally:
        signal.signal(signal.SIGINT, before)


def test_another_thread_stops_a_run_and_says_why() -> None:
    thread = threading.Thread(target=halt, args=(RunError("the folder is another's"),))
    thread.start()
    thread.join()
    try:
        for _ in range(2):
            with pytest.raises(RunError, match="the folder is another's"):
                checkpoint()
    finally:
        halt(None)
    checkpoint()


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with stoppable():
        assert signal.getsignal(signal.SIGINT) is not before[0]
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before


def test_outside_the_main_thread_nothing_is_set() -> None:
    before, errors = signal.getsignal(signal.SIGINT), []

    def work() -> None:
        try:
            with stoppable():
                assert signal.getsignal(signal.SIGINT) is before
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not errors


def test_status_counts_the_images_of_finished_batches(
    copied: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Build.open(copied / "fruit" / "run-0001").run
    mark = run.mark("generate", 0)
    assert mark
    files = [run.root / name for name in mark.files]
    run.withdraw("generate", 0)
    run.commit_batch(0, 0, mark.inputs, files[:1])
    run.commit_batch(0, 1, mark.inputs, files[1:3])
    (run.root / "commits" / "partial" / "generate-00000-copy.json").write_text("no mark")
    monkeypatch.setattr("sys.argv", ["synthgen", "status", str(run.root)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("generate: ")]
    assert line.endswith(", and 3 of shards begun")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_stops_after_the_batch_and_goes_on(number: signal.Signals, tmp_path: Path, migrated: Any) -> None:
    migrated(tmp_path / "prefect")
    spec, out = tmp_path / "spec.yaml", tmp_path / "out"
    spec.write_text(SPEC)
    command = [sys.executable, "-m", "synthgen.cli", "run", str(spec), "--out", str(out)]
    environment = {**os.environ, "PREFECT_HOME": str(tmp_path / "prefect")}
    partial = out / "stopped" / "run-0001" / "commits" / "partial"
    # A group of its own, so that the signal reaches what a terminal's Ctrl-C would.
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 200
    while not (partial.is_dir() and list(partial.glob("*.json"))):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 130
    assert "the same command goes on from there" in errors
    finished = {path: path.stat().st_mtime_ns for path in (out / "stopped" / "run-0001" / "images").rglob("*.png")}
    assert 0 < len(finished) < 6
    assert not list((tmp_path / "prefect").glob("server-*.json"))

    assert subprocess.run(command, env=environment, check=False, timeout=250).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert len(list((out / "stopped" / "run-0001" / "images").rglob("*.png"))) == 6
