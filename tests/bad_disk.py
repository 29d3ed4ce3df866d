"""Runs on a disk that fails at one call: how each run ends, and whether the next run makes the same dataset.

A process of its own (`python bad_disk.py LIBRARY OUT`) tries the cases one after another, with `bad_disk.c` in front
of its C library. It reads cases and writes outcomes as lines of JSON.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cheap
from runs import made, results

HERE = Path(__file__).parent
MOST_CALLS = 60_000  # of a case: some ten times what a run and its resumption ask of the disk
ERRORS = ("EIO", "EPERM", "EINVAL", "ENOSPC", "EDQUOT")
LASTING = ("EIO", "ENOSPC")
WRITING = {"create", "write", "fsync", "rename", "link", "mkdir", "truncate"}
# Three shards, of whose images some are rejected, so that a second round follows; two batches a shard.
SPEC = {
    **cheap.SPEC,
    "count": 6,
    "budget": 2,
    "filters": {"corner": {"use": "cheap_parts.corner", "min": 90}},
}


@dataclass(frozen=True)
class Case:
    """The `nth` call of a kind for a file fails; with `for_good`, so do those after it."""

    kind: str
    name: str
    nth: int
    error: str
    for_good: bool


@dataclass(frozen=True)
class Outcome:
    """What a case came to. `code`: the exit code, or `raw` for an error that is not for people, `endless`; `said`: its
    words, without folders; `hit`: whether the call was made; `wrong`: what was not as it should be, "" for nothing."""

    code: str
    said: str
    hit: bool
    wrong: str


def compiled(folder: Path) -> Path | None:
    """`bad_disk.c` as a library; None where there is no compiler, or no Linux."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        return None
    library = folder / "bad_disk.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", library, HERE / "bad_disk.c", "-ldl", "-lpthread"]
    subprocess.run(command, check=True, capture_output=True)
    return library


def _child(library: Path, folder: Path) -> subprocess.Popen[str]:
    paths = [str(folder), str(HERE), str(HERE.parent)]
    environment = {**os.environ, "LD_PRELOAD": str(library), "PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.Popen(
        [sys.executable, __file__, library, folder / "out"], env=environment, text=True, bufsize=1,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip


def calls(library: Path, folder: Path) -> list[tuple[str, str]]:
    """What an undisturbed run asks of the disk: kind and name, in order. `folder`: has `cheap_parts`."""
    with _child(library, folder) as child:
        out, _ = child.communicate("")
    return [(kind, name) for kind, name in json.loads(out)]


def cases_of(asked: list[tuple[str, str]]) -> list[Case]:
    """Every kind of call for every kind of file: the first call for the first such file fails with every error, and for
    good with `LASTING`; the last one for the last such file fails with these once."""
    times = Counter(asked)
    files: dict[tuple[str, str], list[str]] = {}
    for kind, name in times:
        files.setdefault((kind, kind_of_file(name)), []).append(name)
    cases = []
    for (kind, _), names in files.items():
        cases += [Case(kind, names[0], 1, error, for_good=False) for error in ERRORS]
        cases += [Case(kind, names[0], 1, error, for_good=True) for error in LASTING]
        if (last := times[kind, names[-1]]) > 1 or len(names) > 1:
            cases += [Case(kind, names[-1], last, error, for_good=False) for error in LASTING]
    return cases


def kind_of_file(name: str) -> str:
    return re.sub(r"\d+", "N", name.replace(f"{SPEC['name']}/run-0001", "RUN"))


def tried(library: Path, folder: Path, cases: Iterable[Case]) -> Iterator[tuple[Case, Outcome]]:
    """Every case with its outcome."""
    child: subprocess.Popen[str] | None = None
    for case in cases:
        if child is None:
            child = _child(library, folder)
            child.stdout.readline()
        child.stdin.write(json.dumps(asdict(case)) + "\n")
        answer = child.stdout.readline()
        if answer:
            yield case, Outcome(**json.loads(answer))
            continue
        code = child.wait()
        yield case, Outcome("endless" if code == 99 else "died", "", True, f"the process ended with {code}")
        child = None
    if child is not None:
        child.communicate("")


def _told(error: BaseException, out: Path) -> tuple[str, str]:
    """Exit code and words, as `cli.main` would have them."""
    from synthgen.errors import SynthgenError, of_system

    told = of_system(error) if isinstance(error, OSError) else error
    if not isinstance(told, SynthgenError):
        return "raw", f"{type(error).__name__}: {error}"
    words = re.sub(r"pid \d+", "pid N", str(told).replace(str(out), "OUT"))
    return str(told.exit_code), words


def _try(disk: Any, case: Case, out: Path, reference: dict[str, bytes]) -> Outcome:
    from synthgen.pipeline.build import Build
    from synthgen.pipeline.verification import inspect
    from synthgen.store.run import Run

    shutil.rmtree(out, ignore_errors=True)
    disk.disk_watch(str(out).encode(), MOST_CALLS)
    number = getattr(errno, case.error)
    disk.disk_break(case.kind.encode(), case.name.encode(), case.nth, number, int(case.for_good))
    wrong: list[str] = []
    try:
        root, code, said = made(SPEC, out).run.root, "0", "done"
    except BaseException as error:
        code, said = _told(error, out)
        if code == "raw" or "\n" in said:
            wrong.append("no error of one line")
        writes = case.kind in WRITING or (case.kind == "close" and case.name.endswith("~"))
        if case.error in {"ENOSPC", "EDQUOT"} and writes and code != "4":
            wrong.append("a full disk has another exit code")
    hit = bool(disk.disk_mend())
    if code == "0" and results(root) != reference:
        wrong.append("done, and another dataset")
    try:
        root = made(SPEC, out).run.root
        if results(root) != reference:
            wrong.append("resumed to another dataset")
        if damages := inspect(Build.open(Run(root))).damages:
            wrong.append(f"damaged: {damages[0]}")
        if left := [p.name for p in root.rglob(".*.tmp")]:
            wrong.append(f"left: {left[0]}")
    except BaseException as error:
        wrong.append(f"cannot be resumed: {_told(error, out)}")
    disk.disk_watch(b"", 0)
    return Outcome(code, said, hit, "; ".join(wrong))


def _compiled_once() -> None:
    """Of the templates of reports, which take half of a run's time here."""
    from jinja2 import Environment

    compiled, known = Environment.compile, dict[Any, Any]()

    def compile(self: Environment, source: str, *arguments: Any, **options: Any) -> Any:
        if source not in known:
            known[source] = compiled(self, source, *arguments, **options)
        return known[source]

    Environment.compile = compile  # type: ignore[method-assign]


def main(library: Path, out: Path) -> None:
    disk = ctypes.CDLL(str(library))
    disk.disk_calls.restype = ctypes.c_char_p
    disk.disk_watch.argtypes = [ctypes.c_char_p, ctypes.c_long]
    _compiled_once()
    shutil.rmtree(out, ignore_errors=True)
    made(SPEC, out)  # what is done once a process is not done in what is recorded
    shutil.rmtree(out)
    disk.disk_watch(str(out).encode(), 10**9)
    disk.disk_record()
    root = made(SPEC, out).run.root
    recorded = disk.disk_calls().decode().splitlines()
    disk.disk_watch(b"", 0)
    reference = results(root)
    print(json.dumps([line.split(" ", 1) for line in recorded]), flush=True)
    for line in sys.stdin:
        print(json.dumps(asdict(_try(disk, Case(**json.loads(line)), out, reference))), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
