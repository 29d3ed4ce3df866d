"""Folders in which one may not write: what only reads goes on, what writes says so in one line."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from synthgen.pipeline.build import Build

# Runs command lines, one after another, as the program would: their exit codes, and what they said.
COMMANDS = """
import contextlib, io, json, sys
from synthgen import cli
told = []
for line in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    sys.argv = ["synthgen", *line]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), contextlib.suppress(SystemExit) as stop:
        try:
            cli.main()
        except SystemExit as stop:
            told.append([stop.code or 0, out.getvalue(), err.getvalue()])
print(json.dumps(told))
"""
Commands = Callable[..., list[tuple[int, str, str]]]


def without_power() -> None:
    """The program that is run next may not write where its user may not, though that is root: it does without
    CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH (capabilities(7)), which are 1 and 2; PR_CAPBSET_DROP is 24."""
    if os.geteuid() == 0:
        for capability in (1, 2):
            if ctypes.CDLL(None).prctl(24, capability, 0, 0, 0):
                os._exit(77)


@pytest.fixture
def commands(tmp_path: Path) -> Commands:
    def run(*lines: list[object], **environment: str) -> list[tuple[int, str, str]]:
        arguments = json.dumps([[str(a) for a in line] for line in lines])
        done = subprocess.run(
            [sys.executable, "-c", COMMANDS, arguments], preexec_fn=without_power, capture_output=True, text=True,
            env={**os.environ, "COLUMNS": "200", **environment}, cwd=tmp_path, check=False,
        )  # fmt: skip
        if done.returncode == 77:
            pytest.skip("runs as root, who may write everywhere and cannot be kept from it here")
        assert done.returncode == 0, done.stderr
        return [(code, out, err) for code, out, err in json.loads(done.stdout)]

    return run


@pytest.fixture
def frozen(finished: Build, tmp_path: Path) -> Iterator[Path]:
    """A copy of a finished run in which, and in whose dataset's folder, one may not write; it was never locked here."""
    root = Path(shutil.copytree(finished.run.root, tmp_path / "out" / "fruit" / "run-0001"))
    (root / ".lock").unlink(missing_ok=True)
    folders = [tmp_path / "out", root.parent, root, *(p for p in root.rglob("*") if p.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    yield root
    for folder in folders:
        folder.chmod(0o755)


def state(root: Path) -> dict[str, Any]:
    return {str(p.relative_to(root)): (p.stat().st_mtime_ns, p.stat().st_size) for p in root.rglob("*")}


def test_what_only_reads_needs_to_write_nothing(frozen: Path, commands: Commands, tmp_path: Path) -> None:
    before = state(frozen)
    spec = frozen / "spec.yaml"
    verified, status, shown, listed = commands(
        ["verify", frozen], ["status", frozen], ["show", frozen, "-o", tmp_path / "sheet.png"],
        ["runs", spec, "--out", tmp_path / "out"],
    )  # fmt: skip
    assert verified[0] == 0 and verified[1].endswith(" files read, 0 damages\n") and verified[2] == ""
    assert status[0] == 0 and "report: done" in status[1]
    assert shown[0] == 0 and (tmp_path / "sheet.png").is_file()
    assert listed[0] == 0 and "finished" in listed[1]
    assert state(frozen) == before


def test_damage_is_named_where_it_cannot_be_taken_back(frozen: Path, commands: Commands) -> None:
    (frozen / "verdicts.parquet").chmod(0o644)
    (frozen / "verdicts.parquet").write_bytes(b"nothing")
    marks = state(frozen / "commits")
    ((code, _, told),) = commands(["verify", frozen])
    assert code == 2 and "damaged: verdicts.parquet" in told
    assert state(frozen / "commits") == marks


def test_what_writes_says_in_one_line_that_it_cannot(frozen: Path, commands: Commands, tmp_path: Path) -> None:
    before = state(frozen)
    lines: list[list[object]] = [
        ["judge", frozen], ["label", frozen], ["export", frozen], ["report", frozen], ["show", frozen],
        ["review", frozen, "--no-browser"], ["run", frozen / "spec.yaml", "--out", tmp_path / "out"],
        ["run", frozen / "spec.yaml", "--out", tmp_path / "out", "--run", 2],
        ["check", frozen / "spec.yaml", "--out", tmp_path / "out"],
        ["plan", frozen / "spec.yaml", "--out", tmp_path / "out", "--run", 3],
    ]  # fmt: skip
    for line, (code, _, told) in zip(lines, commands(*lines), strict=True):
        assert code == 2, (line, told)
        assert told.count("\n") == 1 and "permission denied" in told.lower() and "Error" not in told, (line, told)
        assert str(frozen if line[0] not in {"run", "check", "plan"} else tmp_path / "out") in told, (line, told)
    assert state(frozen) == before


def test_check_names_the_folder_that_the_cache_cannot_be_made_in(
    commands: Commands, spec_file: Callable[..., Path], good: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "cache").mkdir(mode=0o555)
    home = tmp_path / "cache" / "synthgen"
    ((code, _, told),) = commands(["check", spec_file(good)], SYNTHGEN_HOME=str(home), PREFECT_HOME="")
    assert code == 2 and told.count("\n") == 1
    assert told.endswith(
        f"SYNTHGEN_HOME: cannot write in {home}: Permission denied; takes a folder in which you may write\n"
    )
