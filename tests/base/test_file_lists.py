"""Long lists of files."""

from pathlib import Path

from synthgen.base.file_lists import NameSet, format_entry, read_entries

FILES = {"coco/a b.json": (12, "0" * 64), "coco/\udcff.png": (0, "f" * 64)}  # the second name is no UTF-8


def test_a_list_is_read_back(tmp_path: Path) -> None:
    data = b"".join(format_entry(name, entry) for name, entry in FILES.items())
    (tmp_path / "coco.files").write_bytes(data)
    assert dict(read_entries(tmp_path / "coco.files")) == dict(read_entries(data)) == FILES


def test_lines_that_are_no_entries_are_left_out(tmp_path: Path) -> None:
    good = format_entry("a", (1, "0" * 64))
    damaged = [b"\n", b"0 x a\n", b"0 -1 a\n", b"0 " + b"9" * 19 + b" a\n", b"0 1 a\0b\n", good[:-1]]
    assert list(read_entries(b"".join([good, *damaged]))) == [("a", (1, "0" * 64))]
    assert list(read_entries(tmp_path / "missing.files")) == []


def test_a_set_of_names() -> None:
    names = NameSet(["a", "b"])
    assert "a" in names and "c" not in names and not names.has_repeats() and len(names) == 2
    names.add("c")
    names.add("a")
    assert "c" in names and names.has_repeats() and len(names) == 4
