"""Ctrl-C, SIGTERM and SIGHUP, sent to the real command."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cheap
import orjson
import pytest
import yaml
from cheap import write_parts
from runs import results

from synthgen.base.interrupts import SIGNALS, Interrupted, ended_by_signals, halt, raise_if_stopped, stoppable
from synthgen.cli import main
from synthgen.errors import RunError
from synthgen.pipeline.build import Build
from synthgen.pipeline.verification import inspect
from synthgen.store.run import Run

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


def test_a_batch_ends_with_an_error_once_a_stop_was_requested() -> None:
    raise_if_stopped()
    with stoppable():
        raise_if_stopped()
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted, match="the same command goes on"):
            raise_if_stopped()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    raise_if_stopped()


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
            raise_if_stopped()


def test_it_is_no_wish_under_nohup(hang_up: None) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with ended_by_signals(), stoppable():
        signal.raise_signal(signal.SIGHUP)
        raise_if_stopped()
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
                raise_if_stopped()
    finally:
        halt(None)
    raise_if_stopped()


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(n) for n in SIGNALS]
    with stoppable():
        assert signal.getsignal(signal.SIGINT) is not before[0]
    with ended_by_signals():
        assert signal.getsignal(signal.SIGTERM) is not before[1]
    assert [signal.getsignal(n) for n in SIGNALS] == before


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
    run = Build.open(Run(copied / "fruit" / "run-0001")).run
    mark = run.marks.read("generate", 0)
    assert mark
    files = [run.root / name for name in mark.files]
    run.marks.withdraw("generate", 0)
    run.marks.commit_batch(0, 0, mark.inputs, files[:1])
    run.marks.commit_batch(0, 1, mark.inputs, files[1:3])
    (run.root / "commits" / "partial" / "generate-00000-copy.json").write_text("no mark")
    monkeypatch.setattr("sys.argv", ["synthgen", "status", str(run.root)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("generate: ")]
    assert line.endswith(", and 3 in unfinished shards")


# The commands that do not finish a batch first


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, run_through: Any) -> Iterator[Path]:
    """A folder with `cheap_parts`, and the finished run of its spec in `out`."""
    place = tmp_path_factory.mktemp("cheap")
    write_parts(place)
    (place / "spec.yaml").write_text(yaml.safe_dump(cheap.SPEC, sort_keys=False))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(place)
        run_through(cheap.SPEC, place / "out")
        yield place
    for name in [name for name in sys.modules if name.partition(".")[0] == "cheap_parts"]:
        del sys.modules[name]


@contextmanager
def halted(
    made: Path, tmp_path: Path, where: str, *arguments: object, terminal: int | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A command that has come to where it halts, in a copy of what is made."""
    shutil.copytree(made / "out", tmp_path / "out")
    environment = {**os.environ, "HALT": where, "HALTED": str(tmp_path / "here")}
    environment["PYTHONPATH"] = os.pathsep.join([str(made), *filter(None, [os.environ.get("PYTHONPATH")])])
    pipe = tmp_path / "out" / "cheap" / "run-0001" / "images" / "00000" / "000000000001.png"
    if where == "read":  # who opens a pipe for reading waits for one who writes
        pipe.unlink()
        os.mkfifo(pipe)
    with subprocess.Popen(
        [sys.executable, "-m", "synthgen.cli", *map(str, arguments)], env=environment, cwd=tmp_path, text=True,
        stdin=terminal, stdout=terminal or subprocess.DEVNULL, stderr=terminal or subprocess.PIPE,
        preexec_fn=None if terminal is None else lambda: fcntl.ioctl(terminal, termios.TIOCSCTTY, 0),
        start_new_session=terminal is not None,
    ) as process:  # fmt: skip
        try:
            deadline = time.monotonic() + 200
            while not (_is_being_read(pipe) if where == "read" else (tmp_path / "here").exists()):
                assert process.poll() is None and time.monotonic() < deadline, process.communicate()
                time.sleep(0.02)
            yield process
        finally:
            process.kill()


def _is_being_read(pipe: Path) -> bool:
    try:
        os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
    except OSError:  # ENXIO: nobody reads
        return False
    return True


RUN = Path("out") / "cheap" / "run-0001"
KEPT = "stopped; what is finished is kept, and the same command goes on from there"


@pytest.mark.parametrize(
    ("where", "number", "arguments", "word"),
    [
        ("segment", signal.SIGTERM, ("label", RUN, "--set", "segmenter.version=2"), KEPT),
        ("export", signal.SIGHUP, ("export", RUN, "--set", "exporters.lines.version=2"), KEPT),
        ("generate", signal.SIGTERM, ("remake", RUN, 1), KEPT),
        ("read", signal.SIGHUP, ("show", RUN), KEPT),
        (
            "measure",
            signal.SIGTERM,
            ("calibrate", "spec.yaml", "--count", 2),
            "stopped; an unfinished calibration keeps nothing",
        ),
    ],
)
def test_a_command_ends_with_a_word(
    where: str, number: int, arguments: Any, word: str, made: Path, tmp_path: Path, run_through: Any
) -> None:
    shutil.copy(made / "spec.yaml", tmp_path)
    with halted(made, tmp_path, where, *arguments) as process:
        process.send_signal(number)
        _, errors = process.communicate(timeout=100)
    assert process.returncode == 130
    assert errors.splitlines()[-1].startswith(word)
    root = tmp_path / RUN
    assert not Run(root).holder() and not list(root.rglob(".*.tmp")) and not (root / "sheet.png").exists()
    build = run_through(cheap.SPEC, tmp_path / "out")
    assert build.is_complete() and inspect(build).damages == ()
    assert results(root) == results(made / RUN)


def test_a_command_whose_terminal_is_closed(made: Path, tmp_path: Path) -> None:
    """It gets the signal, and finds nobody to tell."""
    ours, theirs = os.openpty()
    with halted(made, tmp_path, "segment", "label", RUN, "--set", "segmenter.version=2", terminal=theirs) as process:
        os.close(theirs)
        os.close(ours)
        assert process.wait(100) == 130
    assert not Run(tmp_path / RUN).holder()


class Hub(BaseHTTPRequestHandler):
    """A Hugging Face hub with one model of one file, of which it sends the beginning."""

    begun = threading.Event()
    tag = "b" * 40

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._head(10**6)

    def do_GET(self) -> None:
        if not self.path.startswith("/api/"):
            self._head(10**6)
            self.wfile.write(b"{")
            self.wfile.flush()
            self.begun.set()
            time.sleep(300)
            return
        files = [{"type": "file", "path": "config.json", "size": 10**6, "oid": self.tag}]
        about = {"id": "me/slow", "sha": "a" * 40, "siblings": [{"rfilename": "config.json"}]}
        answer = orjson.dumps(files if "/tree/" in self.path else about)
        self._head(len(answer))
        self.wfile.write(answer)

    def _head(self, size: int) -> None:
        self.send_response(200)
        for name, value in {"Content-Length": size, "ETag": f'"{self.tag}"', "X-Repo-Commit": "a" * 40}.items():
            self.send_header(name, str(value))
        self.end_headers()


@pytest.fixture
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.daemon_threads, server.block_on_close = True, False
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_download_ends_at_once(hub: str, tmp_path: Path) -> None:
    """The hub's own threads, which nobody can interrupt, would go on until they have their files."""
    environment = {k: v for k, v in os.environ.items() if k.lower() not in {"http_proxy", "all_proxy"}}
    environment |= {"HF_ENDPOINT": hub, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-m", "synthgen.cli", "models", "--download", "me/slow"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert Hub.begun.wait(100)
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=100)
        finally:
            process.kill()
    assert process.returncode == 130
    assert errors.splitlines()[-1] == KEPT


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
