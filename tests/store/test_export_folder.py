"""Where exporters write: links and copies, the list of what was written, and what goes with the next export."""

import errno
import os
import tracemalloc
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from folders import names

from synthgen.base.file_lists import format_entry, read_entries
from synthgen.base.files import sha256
from synthgen.errors import RunError
from synthgen.store import export_folder
from synthgen.store.export_folder import ExportedFolder, exporting
from synthgen.store.marks import Mark, Marks
from synthgen.store.run import Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.at(tmp_path, "fruit", 1)


def write(path: Path, data: bytes = b"data") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def made(run: Run, *ids: int) -> list[Path]:
    """A finished shard of images, of which no two are equal."""
    files = [run.images.write(0, i, np.full((8, 8, 3), i, np.uint8)) for i in ids]
    run.marks.commit("generate", 0, "inputs", files)
    return files


def exported(run: Run, **contents: bytes) -> None:
    with exporting(run, "coco", "inputs") as folder:
        for name, content in contents.items():
            with folder.open(f"{name}.json") as file:
                file.write(content)


def list_of(run: Run) -> dict[str, tuple[int, str]]:
    return dict(read_entries(run.paths.export_list("coco")))


@pytest.mark.parametrize(
    "name", ["../x", "a/../../x", "/etc/x", "../coco2/x", "..", "", ".", "a/..", "\0", "a\0b", "a\nb"]
)
def test_an_export_stays_in_its_folder(name: str, run: Run) -> None:
    source = write(run.root / "images" / "a.png")
    with exporting(run, "coco", "inputs") as folder:
        with pytest.raises(RunError, match="an export may not write outside its folder, got"), folder.open(name):
            pass
        with pytest.raises(RunError, match="an export may not write outside its folder, got"):
            folder.image(source, name)
    assert names(run.root) == ["commits/export-coco.files", "commits/export-coco.json", "images/a.png"]
    assert list_of(run) == {}


def test_an_export_does_not_follow_links_out_of_its_folder(run: Run, tmp_path: Path) -> None:
    (run.root / "coco").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (run.root / "coco" / "train").symlink_to(tmp_path / "elsewhere")
    with (
        pytest.raises(RunError, match="outside its folder"),
        exporting(run, "coco", "inputs") as folder,
        folder.open("train/x.json"),
    ):
        pass
    assert names(tmp_path / "elsewhere") == []


def test_images_are_shared_as_hard_links(run: Run) -> None:
    for _ in range(2):  # again: they are there already
        source, _ = made(run, 1, 2)
        with exporting(run, "coco", "inputs") as folder:
            folder.image(source, "train/1.png")
        given = run.root / "coco" / "train" / "1.png"
        assert given.samefile(source)
        assert given.stat().st_nlink == 2
        assert given.stat().st_mode & 0o222 == 0
        assert list_of(run) == {"coco/train/1.png": (source.stat().st_size, sha256(source))}


def test_images_are_not_read_to_be_listed(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their marks have said what is in them, those of another run's too; what no mark knows is read."""
    other = Run.at(tmp_path, "fruit", 2)
    sources = [*made(run, 1, 2), *made(other, 3)]
    stranger = write(run.root / "images" / "00001" / "9.png")
    read: list[Path] = []
    monkeypatch.setattr("synthgen.store.export_folder.sha256", lambda path: read.append(path) or sha256(path))
    with exporting(run, "coco", "inputs") as folder:
        for source in (*sources, stranger):
            folder.image(source, source.name)
    assert read == [run.root / "coco" / "9.png"]
    expected = {f"coco/{s.name}": (s.stat().st_size, sha256(s)) for s in (*sources, stranger)}
    assert list_of(run) == expected


def test_images_are_copied_if_asked_or_where_links_cannot_be(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    (source,) = made(run, 1)
    with exporting(run, "coco", "inputs") as folder:
        folder.image(source, "asked.png", encoding="copy")

        def refuse(*_: Any) -> None:
            raise OSError(errno.EXDEV, "another file system")

        monkeypatch.setattr(os, "link", refuse)
        folder.image(source, "cannot.png")
    for name in ("asked.png", "cannot.png"):
        given = run.root / "coco" / name
        assert given.read_bytes() == source.read_bytes()
        assert not given.samefile(source)
    assert source.stat().st_nlink == 1
    assert names(run.root / "coco") == ["asked.png", "cannot.png"]


def test_a_link_becomes_a_copy_and_the_image_stays_as_it_is(run: Run) -> None:
    (source,) = made(run, 1)
    before = source.read_bytes()
    for encoding in ("link", "copy"):
        with exporting(run, "coco", "inputs") as folder:
            folder.image(source, "1.png", encoding=encoding)
    assert not (run.root / "coco" / "1.png").samefile(source)
    (run.root / "coco" / "1.png").write_bytes(b"changed by a person")
    assert source.read_bytes() == before


def test_an_export_is_done_once_its_files_and_their_list_are_there(run: Run) -> None:
    exported(run, a=b"1", b=b"22")
    mark = run.marks.read("export", "coco")
    assert mark and mark.counts == {"files": 2} and list(mark.files) == ["commits/export-coco.files"]
    assert [name for name, _ in run.marks.files_of(mark)] == [*mark.files, "coco/a.json", "coco/b.json"]
    assert run.marks.is_done("export", "coco", "inputs") and not run.marks.is_done("export", "coco", "others")
    for file in (run.root / "coco" / "b.json", run.paths.export_list("coco")):
        exported(run, a=b"1", b=b"22")
        assert run.marks.is_done("export", "coco", "inputs")
        file.write_bytes(file.read_bytes()[:-1])
        assert not run.marks.is_done("export", "coco", "inputs")
        file.unlink()
        assert not run.marks.is_done("export", "coco", "inputs")


def test_an_export_that_fails_is_not_done_and_leaves_what_was_there(run: Run) -> None:
    exported(run, a=b"1", b=b"2")
    before = run.paths.export_list("coco").read_bytes()
    with pytest.raises(ValueError, match="no"), exporting(run, "coco", "inputs") as folder:
        with folder.open("a.json") as file:
            file.write(b"3")
        raise ValueError("no")
    assert not run.marks.is_done("export", "coco", "inputs")
    assert run.paths.export_list("coco").read_bytes() == before
    assert names(run.root) == ["coco/a.json", "coco/b.json", "commits/export-coco.files", "commits/export-coco.json"]


def test_only_what_an_earlier_export_wrote_is_removed(run: Run) -> None:
    exported(run, old=b"1", kept=b"1")
    write(run.root / "coco" / "mine.txt")
    exported(run, kept=b"2")
    assert names(run.root / "coco") == ["kept.json", "mine.txt"]
    (run.root / "coco" / "kept.json").unlink()
    exported(run)  # gone already
    assert names(run.root / "coco") == ["mine.txt"]


def test_what_a_mark_without_a_list_names_is_removed_too(run: Run) -> None:
    """As earlier versions wrote them."""
    files = [write(run.root / "coco" / name) for name in ("old.json", "kept.json")]
    run.marks.commit("export", "coco", "inputs", files)
    assert run.marks.is_done("export", "coco", "inputs")
    exported(run, kept=b"2")
    assert names(run.root / "coco") == ["kept.json"]


def test_a_list_that_was_written_without_its_mark_counts(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    exported(run, old=b"1")

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Marks, "commit", killed)
        exported(run, new=b"2")
    assert not run.marks.is_done("export", "coco", "inputs")
    exported(run, newest=b"3")
    assert names(run.root / "coco") == ["newest.json"]


def test_the_disk_is_synced_once_before_the_mark(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for each file: there may be millions."""
    synced: list[Path] = []

    def sync(folder: Path) -> None:
        assert names(run.root / "coco") == ["a.json", "b.json"] and not run.marks.is_done("export", "coco", "inputs")
        synced.append(folder)

    with monkeypatch.context() as patched:
        patched.setattr(export_folder, "sync_disk", sync)
        exported(run, a=b"1", b=b"2")
    assert synced == [run.root / "coco"] and run.marks.is_done("export", "coco", "inputs")

    def fails(_: Path) -> None:
        raise OSError(errno.EIO, "the disk fails")

    monkeypatch.setattr(export_folder, "sync_disk", fails)
    with pytest.raises(OSError, match="the disk fails"):
        exported(run, c=b"3")
    assert not run.marks.is_done("export", "coco", "inputs")


def test_two_files_of_one_name_are_an_error(run: Run) -> None:
    """The later one would replace the earlier one, and an image or its labels would be lost unseen."""
    first, second = made(run, 1, 2)
    with (
        pytest.raises(
            RunError, match=r"^the exporter wrote coco/cup.png twice; it takes a different name for each file$"
        ),
        exporting(run, "coco", "inputs") as folder,
    ):
        for source, name in ((first, "1.png"), (first, "cup.png"), (second, "cup.png")):
            folder.image(source, name)
    assert not run.marks.is_done("export", "coco", "inputs")


@pytest.mark.parametrize("name", ["../../mine.txt", "/etc/hosts", "images/00000/1.png", "spec.yaml"])
def test_records_that_were_tampered_with_remove_nothing_elsewhere(name: str, run: Run, tmp_path: Path) -> None:
    for path in (tmp_path / "mine.txt", run.root / "images" / "00000" / "1.png", run.paths.spec):
        write(path)
    before = names(tmp_path)
    write(run.paths.export_list("coco"), f"{'0' * 64} 4 {name}\nno line\n".encode())
    with exporting(run, "coco", "inputs") as folder:
        folder.remove_others(Mark("x", {name: (4, "y")}).files.items())
    assert [n for n in names(tmp_path) if "/commits/" not in n] == before


def test_a_file_takes_eight_bytes_of_memory(run: Run) -> None:
    (source,) = made(run, 1)

    def held(count: int) -> int:
        """Bytes that a folder holds of so many files."""
        with exporting(run, "coco", "inputs") as folder:
            for i in range(10):  # what is held of any folder
                folder.image(source, f"{i}.png")
            tracemalloc.start()
            for i in range(10, 10 + count):
                folder.image(source, f"{i}.png")
            snapshot = tracemalloc.take_snapshot()
            tracemalloc.stop()
            assert len(folder) == 10 + count
        assert len(list_of(run)) == 10 + count
        # Of the package alone: the table in which Python keeps the parts of all paths grows in leaps.
        return sum(t.size for t in snapshot.filter_traces([tracemalloc.Filter(True, "*/synthgen/*")]).traces)

    assert held(1500) - held(500) < 1000 * 16  # an array that grows has room to spare


@pytest.mark.parametrize(("encoding", "ending", "magic"), [("jpeg", "jpg", b"\xff\xd8\xff"), ("webp", "webp", b"RIFF")])
def test_images_are_encoded_again(run: Run, encoding: Any, ending: str, magic: bytes) -> None:
    smooth = cv2.resize(np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8), (80, 64))
    source = run.images.write(0, 1, smooth)
    with exporting(run, "coco", "inputs") as folder:
        folder.image(source, f"train/1.{ending}", encoding=encoding)
    file = run.root / "coco" / "train" / f"1.{ending}"
    assert file.read_bytes().startswith(magic) and file.stat().st_size < source.stat().st_size
    assert abs(cv2.imread(str(file))[:, :, ::-1].astype(int) - smooth).mean() < 4
    assert list_of(run) == {f"coco/train/1.{ending}": (file.stat().st_size, sha256(file))}


@pytest.mark.parametrize("encoding", ["jpeg", "webp"])
def test_an_image_that_is_not_what_was_made_is_not_encoded_again(run: Run, encoding: Any) -> None:
    image, other = made(run, 1, 2)
    image.write_bytes(other.read_bytes())
    with pytest.raises(RunError, match="is not the image that was made"), exporting(run, "coco", "inputs") as folder:
        folder.image(image, "1.img", encoding=encoding)
    assert names(run.root / "coco") == []


@pytest.mark.parametrize("data", [b"no image", b"", b"\xff\xd8\xff no PNG"])
def test_a_file_that_is_no_png_is_not_encoded_again(run: Run, data: bytes) -> None:
    image = write(run.root / "images" / "00000" / "1.png", data)
    what = "is no readable image: .*; delete it and run again"
    with pytest.raises(RunError, match=what), exporting(run, "coco", "inputs") as folder:
        folder.image(image, "1.jpg", encoding="jpeg")


def test_a_scratch_file_is_on_the_disk_of_the_export_and_leaves_nothing(run: Run) -> None:
    with exporting(run, "coco", "inputs") as folder:
        with folder.scratch() as scratch:
            scratch.write(b"data")
            scratch.seek(0)
            assert scratch.read() == b"data"
            assert os.fstat(scratch.fileno()).st_dev == (run.root / "coco").stat().st_dev
        assert scratch.closed
    assert names(run.root / "coco") == [] and list_of(run) == {}


def test_an_export_is_read_back_by_the_names_that_it_was_written_under(run: Run) -> None:
    exported(run, b=b"1", a=b"2")
    folder = ExportedFolder(run, "coco")
    assert list(folder.names()) == ["b.json", "a.json"]
    assert [folder.has(name) for name in ("a.json", "coco/a.json", "c.json")] == [True, False, False]
    with folder.open("a.json") as file:
        assert file.read() == b"2"
    write(run.root / "coco" / "stranger.json")
    with pytest.raises(RunError, match=r"the exporter wrote no file coco/stranger\.json"):
        folder.open("stranger.json")
    (run.root / "coco" / "a.json").unlink()
    with pytest.raises(RunError, match=r"coco/a\.json cannot be read: No such file"):
        folder.open("a.json")


@pytest.mark.parametrize("link", ["coco", "coco/train", ".", ".."])
def test_a_folder_that_was_moved_and_linked_back_keeps_its_files(run: Run, tmp_path: Path, link: str) -> None:
    """On another disk; or the run, or all runs, are."""
    sources = made(run, 1, 2)

    def export(*numbers: int) -> None:
        with exporting(Run(run.root), "coco", "inputs") as folder:
            for n in numbers:
                folder.image(sources[n - 1], f"train/{n}.png", encoding="copy")
            with folder.open("notes.json") as file:
                file.write(b"{}")

    export(1, 2)
    if link == "coco/train":
        (tmp_path / "other").mkdir()
        inner = run.root / "coco" / "elsewhere"
        (run.root / "coco" / "train").rename(inner)
        (run.root / "coco" / "train").symlink_to(inner)
    else:
        place = run.root.parent if link == ".." else run.root / link
        moved = tmp_path / "other"
        Path(os.path.normpath(place)).rename(moved)
        Path(os.path.normpath(place)).symlink_to(moved)
    for numbers in ((1, 2), (1, 2), (2,)):
        export(*numbers)
        folder = run.root / "coco"
        there = sorted(p.name for p in folder.rglob("*") if p.is_file())
        assert there == [*(f"{n}.png" for n in numbers), "notes.json"]
        assert all(not name.startswith("/") for name in list_of(Run(run.root)))
        assert all((run.root / name).is_file() for name in list_of(Run(run.root)))


@pytest.mark.parametrize("target", ["images", "coco2", ".", "..", "commits"])
def test_a_link_to_the_run_s_own_folders_is_refused(run: Run, target: str) -> None:
    """What is in them would be written over, and removed with the next export."""
    (image,) = made(run, 1)
    (run.root / "coco2").mkdir()
    (run.root / "coco").symlink_to(run.root / target)
    before = names(run.root)
    with pytest.raises(RunError, match=r"is a link to .*, which holds other things; remove the link"):
        exported(run, a=b"1")
    assert names(run.root) == before and image.is_file()


def test_beyond_a_link_only_what_an_export_wrote_is_removed(run: Run, tmp_path: Path) -> None:
    """A run folder that came from elsewhere may hold a link to anywhere, and a list of any names."""
    home = tmp_path / "home"
    own, changed = write(home / "photo.png", b"mine"), write(home / ".notes.tmp", b"mine too")
    (run.root / "coco").parent.mkdir(parents=True, exist_ok=True)
    (run.root / "coco").symlink_to(home)
    run.paths.export_list("coco").parent.mkdir(exist_ok=True)
    run.paths.export_list("coco").write_bytes(format_entry("coco/photo.png", (4, "0" * 64)))
    exported(run, a=b"1", b=b"2")
    (home / "b.json").write_bytes(b"changed by a person")
    exported(run)
    assert own.read_bytes() == b"mine" and changed.is_file()
    assert names(home) == [".notes.tmp", "b.json", "photo.png"]  # a.json, as it was written, is gone


def test_whole_paths_on_the_list_of_an_earlier_version_remove_nothing(run: Run) -> None:
    exported(run, a=b"1")
    list_file = run.paths.export_list("coco")
    list_file.write_bytes(format_entry(str(run.root / "coco" / "a.json"), (1, "0" * 64)))
    exported(run, a=b"2")
    assert (run.root / "coco" / "a.json").read_bytes() == b"2"
