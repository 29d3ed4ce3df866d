"""A disk that fills while a run, or Prefect's server, writes to it: a real one, of a few megabytes."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from runs import results

from synthgen.errors import OutOfRoom
from synthgen.pipeline.build import Build
from synthgen.pipeline.verification import inspect
from synthgen.store import files
from synthgen.store.run import Run

MOUNT = shutil.which("mount")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB in memory."""
    place = tmp_path / "disk"
    place.mkdir()
    made = MOUNT and subprocess.run(
        [MOUNT, "-t", "tmpfs", "-o", "size=4m", "tmpfs", place], capture_output=True, check=False
    )
    if not made or made.returncode:
        pytest.skip("needs to mount a tmpfs, which takes root")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


@pytest.mark.parametrize(
    ("spare", "free_kb"),
    [(1_000_000, 1200), (0, 150), (0, 230), (0, 300), (0, 360)],  # stops before the disk is full; is told by the disk
)
def test_a_full_disk(
    disk: Path, quick: Any, run_through: Any, finished: Any, monkeypatch: Any, spare: int, free_kb: int
) -> None:
    monkeypatch.setattr(files, "SPARE_BYTES", spare)
    monkeypatch.setattr("synthgen.pipeline.check.disk_bytes", lambda spec: 0)
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(shutil.disk_usage(disk).free - 1000 * free_kb))
    with pytest.raises(OutOfRoom, match="free") as stopped:
        run_through(quick, disk / "out")
    assert stopped.value.exit_code == 4 and "\n" not in str(stopped.value)
    root = disk / "out" / "fruit" / "run-0001"
    assert not list(root.rglob(".*.tmp"))
    assert inspect(Build.open(Run(root))).damages == ()
    ballast.unlink()
    build = run_through(quick, disk / "out")
    assert build.is_complete() and inspect(build).damages == ()
    assert results(root) == results(finished.run.root)


@pytest.mark.parametrize("free_kb", [0, 1000])
def test_no_room_for_prefect(disk: Path, monkeypatch: pytest.MonkeyPatch, free_kb: int) -> None:
    """None for what says whose the server is; too little for its database."""
    from synthgen.orchestration.server import embedded_server

    monkeypatch.setenv("PREFECT_HOME", str(disk))
    (disk / "start.lock").touch()
    (disk / "ballast").write_bytes(bytes(shutil.disk_usage(disk).free - 1000 * free_kb))
    words = f"^Prefect's files cannot be written to {disk}: ([Nn]o room|No space)"
    with pytest.raises(OutOfRoom, match=words) as stopped, embedded_server():
        pass
    assert "\n" not in str(stopped.value)
    assert not list(disk.glob("server-*"))
