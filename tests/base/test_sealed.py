"""Sealed records: what was written is read back, and damage shows."""

from pathlib import Path

import pytest

from synthgen.base.sealed import read_sealed, sha256_json, write_sealed


def test_a_sealed_record_is_read_back(tmp_path: Path) -> None:
    content = {"b": [1, 2.5, None], "a": {"ü": True}}
    written = write_sealed(tmp_path / "a.json", content)
    assert (tmp_path / "a.json").read_bytes() == written
    assert read_sealed(tmp_path / "a.json") == content


@pytest.mark.parametrize("data", [None, b"", b"[]", b"{}", b'{"a": 1}', b'{"a": 1, "seal": "0"}', b"\xff"])
def test_what_is_not_sealed_is_not_read(data: bytes | None, tmp_path: Path) -> None:
    if data is not None:
        (tmp_path / "a.json").write_bytes(data)
    assert read_sealed(tmp_path / "a.json") is None


def test_a_changed_value_breaks_the_seal(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_bytes(write_sealed(file, {"images": 41}).replace(b"41", b"42"))
    assert read_sealed(file) is None


def test_the_checksum_does_not_mind_the_order_of_keys() -> None:
    assert sha256_json({"a": 1, "b": {2: 3, "c": None}}) == sha256_json({"b": {"c": None, 2: 3}, "a": 1})
    assert sha256_json([1, 2]) != sha256_json([2, 1])
    assert sha256_json({"a": 1}) == "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862"
