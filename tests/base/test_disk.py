"""The room on a disk."""

import math
import os
from pathlib import Path

import pytest

from synthgen.base.disk import free_bytes


def test_a_file_system_that_does_not_say_what_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zeros = os.statvfs_result([0] * 10)
    monkeypatch.setattr(os, "statvfs", lambda _: zeros)
    assert free_bytes(tmp_path) == math.inf


def test_free_bytes_of_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    assert 0 < free_bytes(tmp_path / "a" / "b") < math.inf
    assert not (tmp_path / "a").exists()
