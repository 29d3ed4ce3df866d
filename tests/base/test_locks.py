"""Whether another process holds a lock on a file."""

import fcntl
from pathlib import Path

import pytest

from synthgen.base.locks import is_locked


def test_a_lock_is_seen_while_it_is_held(tmp_path: Path) -> None:
    file = tmp_path / "a.lock"
    assert is_locked(file) is False  # there is no such file
    with open(file, "wb") as opened:
        assert is_locked(file) is False
        fcntl.flock(opened, fcntl.LOCK_EX)
        assert is_locked(file) is True
    assert is_locked(file) is False


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(file: object, operation: int) -> None:
        raise OSError("no locks here")

    (tmp_path / "a.lock").touch()
    monkeypatch.setattr(fcntl, "flock", refused)
    assert is_locked(tmp_path / "a.lock") is None
