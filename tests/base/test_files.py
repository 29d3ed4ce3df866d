"""Files that are whole or not there."""

import builtins
import ctypes
import errno
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from folders import names, write

from synthgen.base.file_lists import read_entries
from synthgen.base.files import atomic, read_bytes, sha256, sync_disk
from synthgen.errors import OutOfRoom, of_system


def test_atomic_writes_whole_files(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.bin"
    with atomic(path) as file:
        file.write(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["a/b.bin"]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), OSError(errno.EIO, "broken")])
def test_atomic_leaves_the_old_file_if_the_block_fails(error: BaseException, tmp_path: Path) -> None:
    path = write(tmp_path / "b.bin", b"old")
    with pytest.raises(type(error)), atomic(path) as file:
        file.write(b"half of the new")
        raise error
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["b.bin"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_reported_with_the_file(number: int, tmp_path: Path) -> None:
    with pytest.raises(OutOfRoom, match=r"no room left on the disk for .*b\.bin") as stop, atomic(tmp_path / "b.bin"):
        raise OSError(number, "full")
    assert stop.value.exit_code == 4
    assert names(tmp_path) == []


@pytest.mark.parametrize("call", ["fsync", "replace", "open"])
def test_what_the_disk_answers_names_the_file(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*named: Any) -> None:
        raise OSError(errno.EIO, "Input/output error", *(str(n) for n in named if isinstance(n, Path)))

    path = tmp_path / "b.bin"
    monkeypatch.setattr(
        *{"fsync": (os, "fsync"), "replace": (Path, "replace"), "open": (builtins, "open")}[call], broken
    )
    with pytest.raises(OSError, match="output") as stop, atomic(path):
        pass
    assert str(of_system(stop.value)) == f"{path}: input/output error"
    assert names(tmp_path) == []


@pytest.mark.parametrize("read", [read_bytes, sha256, lambda path: list(read_entries(path))])
def test_what_cannot_be_read_is_named(read: Callable[[Path], Any]) -> None:
    memory = Path("/proc/self/mem")  # nothing is at its beginning: proc(5)
    if not memory.exists():
        pytest.skip("has no /proc")
    with pytest.raises(OSError, match="output") as stop:
        read(memory)
    assert str(of_system(stop.value)) == "/proc/self/mem: input/output error"


def test_atomic_does_not_mind_that_another_removes_its_empty_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Path.mkdir

    def made_and_gone(self: Path, *arguments: Any, **options: Any) -> None:
        made(self, *arguments, **options)
        monkeypatch.setattr(Path, "mkdir", made)
        self.rmdir()

    monkeypatch.setattr(Path, "mkdir", made_and_gone)
    with atomic(tmp_path / "a" / "b") as file:
        file.write(b"whole")
    assert (tmp_path / "a" / "b").read_bytes() == b"whole"


def test_atomic_syncs_the_file_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(os, "fsync", lambda _: seen.append((tmp_path / "b.bin").exists()))
    write(tmp_path / "b.bin")
    assert seen == [False, True]  # the file, without its name; then the folder, with it


def test_a_disk_is_synced_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: pytest.fail("a file that the caller syncs later"))
    with atomic(tmp_path / "a", synced=False) as file:
        file.write(b"x")
    sync_disk(tmp_path)
    assert (tmp_path / "a").read_bytes() == b"x"
    with pytest.raises(FileNotFoundError):
        sync_disk(tmp_path / "none")
    called: list[str] = []
    monkeypatch.setattr(os, "sync", lambda: called.append("all disks"))
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: object())
    sync_disk(tmp_path)
    assert called == ["all disks"], "where the system has no syncfs"


def test_a_disk_that_cannot_be_synced_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> int:
        ctypes.set_errno(errno.ENOSPC)
        return -1

    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: SimpleNamespace(syncfs=full))
    with pytest.raises(OutOfRoom, match=str(tmp_path)):
        sync_disk(tmp_path)
