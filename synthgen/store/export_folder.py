"""The folder of an export, `<run>/<exporter>/…`: written by its exporter together with a list of its files, and read
back."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from synthgen.backends import ImageEncoding
from synthgen.base.file_lists import Entry, NameSet, format_entry, read_entries
from synthgen.base.files import naming_errors, read_bytes, remove_temporary, sha256, sync_disk
from synthgen.errors import RunError
from synthgen.store.encodings import Encoder, UnreadableImage
from synthgen.store.images import committed_images
from synthgen.store.run import Run
from synthgen.types import Box

SCRATCH_BYTES = 2**18  # of a scratch file that memory holds: with fewer, writing it takes longer


@contextmanager
def exporting(run: Run, exporter: str, inputs: str, encoder: Encoder | None = None) -> Iterator[ExportFolder]:
    """The folder of an export, for its block to write. If the block succeeds, removes the files that an earlier export
    wrote and this one did not, and writes the mark: only then is the export done."""
    run.files.confirm()
    started, mark, list_file = time.monotonic(), run.marks.read("export", exporter), run.paths.export_list(exporter)
    if mark and mark.inputs:
        run.marks.withdraw("export", exporter)
    with run.files.writing(list_file) as file:
        written = ExportFolder(run, exporter, file, encoder or Encoder())
        for folder, _, _ in os.walk(run.paths.export(exporter)):
            remove_temporary(Path(folder))  # of an export that was killed
        yield written
        written.remove_others(chain(mark.files.items() if mark else (), read_entries(list_file)))
        written.require_unique_names()
        sync_disk(written.root)
    run.marks.commit(
        "export", exporter, inputs, [list_file], seconds=time.monotonic() - started, counts={"files": len(written)},
        notes=written.notes,
    )  # fmt: skip


class ExportFolder:
    """See `backends.Folder`. There may be millions of files: each goes into the list when it is written, and takes
    eight bytes of memory."""

    def __init__(self, run: Run, exporter: str, list_file: IO[bytes], encoder: Encoder) -> None:
        self._run, self._list, self._encoder = run, list_file, encoder
        # The path inside the run folder, for the list; and where the folder lies, since a person may have moved it and
        # put a link in its place.
        self._named, self._root = run.paths.export(exporter), run.paths.export(exporter).resolve()
        self._in_run = f"{run.root}/"
        self._is_moved = not self._root.is_relative_to(run.root)
        if self._root != self._named and (not self._is_moved or run.root.is_relative_to(self._root)):
            raise RunError(f"{self._named} is a link to {self._root}, which holds other things; remove the link")
        # By name, kept because resolving a folder takes longer than linking a file. Paths are text here, because there
        # may be millions, and to make a `Path` takes as long as to link a file.
        self._folders: dict[str, str] = {}
        self._written = NameSet()  # in the run folder
        self._made: tuple[str, Mapping[str, Entry]] = "", {}  # a folder of images, and what is in it
        self.notes: dict[str, Any] = {}  # for the mark

    def __len__(self) -> int:
        return len(self._written)

    @property
    def root(self) -> Path:
        """Where its files are, without links."""
        return self._root if self._root.is_dir() else self._run.root

    def has(self, name: str) -> bool:
        """Whether a file of this name has been written."""
        return self._run.paths.name(self._named / name) in self._written

    def written(self) -> Iterator[tuple[str, Entry]]:
        """The files that have been written, in order: name in this folder, size and checksum."""
        self._list.flush()
        for name, entry in read_entries(Path(self._list.name)):
            yield name.removeprefix(f"{self._run.paths.name(self._named)}/"), entry

    def _path(self, name: str) -> str:
        folder, last = os.path.split(name)
        is_name = last not in {"", ".", ".."} and "\0" not in name and "\n" not in name
        if is_name and folder not in self._folders:
            resolved = (self._root / folder).resolve()
            if resolved == self._root or self._is_inside(resolved):
                self._run.files.confirm()
                resolved.mkdir(parents=True, exist_ok=True)
                # This is its path inside the run folder, even if links lead there.
                self._folders[folder] = str(self._named / resolved.relative_to(self._root))
        if not is_name or folder not in self._folders:
            raise RunError(f"an export may not write outside its folder, got {name!r}")
        return f"{self._folders[folder]}/{last}"

    def _note(self, path: str, entry: Entry | None) -> None:
        name = path[len(self._in_run) :]
        self._list.write(format_entry(name, entry or ((file := Path(path)).stat().st_size, sha256(file))))
        self._written.add(name)

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        path = self._path(name)
        with self._run.files.writing(Path(path), synced=False) as file:
            yield file
        self._note(path, None)

    def image(self, source: Path, name: str, *, encoding: ImageEncoding = "link") -> None:
        path = self._path(name)
        self._run.files.confirm()
        if not self._encoder.keeps(encoding):
            self._write(path, self.image_bytes(source, encoding=encoding))
            return
        if encoding == "copy" or not _linked(source, path):
            with self._run.files.writing(Path(path), synced=False) as file:
                file.write(read_bytes(source))
        self._note(path, self._entry_of(source))

    def _write(self, path: str, data: bytes) -> None:
        """A whole file at once, which need not be read again for its checksum."""
        with self._run.files.writing(Path(path), synced=False) as file:
            file.write(data)
        self._note(path, (len(data), hashlib.sha256(data).hexdigest()))

    def image_bytes(self, source: Path, *, encoding: ImageEncoding = "link") -> bytes:
        with _naming(source, encoding):
            return self._encoder.encoded(self._read(source), encoding)

    def crops(self, source: Path, boxes: Mapping[str, Box], *, encoding: ImageEncoding = "link") -> None:
        with _naming(source, encoding):
            files = self._encoder.crops(self._read(source), boxes.values(), encoding)
            for name, data in zip(boxes, files, strict=True):
                self._write(self._path(name), data)

    def report_loss(self, sentence: str) -> None:
        self.notes.setdefault("losses", []).append(sentence)

    @contextmanager
    def scratch(self) -> Iterator[IO[bytes]]:
        self._run.files.confirm()
        self._root.mkdir(parents=True, exist_ok=True)
        with naming_errors(self._root), TemporaryFile(buffering=SCRATCH_BYTES, dir=self._root) as file:
            yield file

    def _entry_of(self, source: Path) -> Entry | None:
        """The size and checksum of an image in the mark of its shard; None for a file that no mark names."""
        folder, name = os.path.split(source)
        if folder != self._made[0]:
            self._made = folder, committed_images(source.parent)
        return self._made[1].get(name)

    def _read(self, source: Path) -> bytes:
        """An image as it was made.

        Raises:
            RunError: it cannot be read, or its checksum differs.
        """
        try:
            data, made = source.read_bytes(), self._entry_of(source)
        except OSError as error:
            raise RunError(f"{source} cannot be read: {error.strerror}; run again to make it anew") from error
        if made and made[1] != hashlib.sha256(data).hexdigest():
            raise RunError(
                f"{source} is not the image that was made: its checksum differs; "
                "delete it and run again to make it anew"
            )
        return data

    def _is_inside(self, path: Path) -> bool:
        return path != self._root and path.is_relative_to(self._root)

    def remove_others(self, files: Iterable[tuple[str, Entry]]) -> None:
        """Removes files that an earlier export wrote and this one did not. In a folder that was moved and linked back,
        removes a file only if it still has the checksum with which an export wrote it: the folder may hold other files
        by now, and the list may come from a stranger.

        Args:
            files: path in the run folder, and size and checksum of what an export wrote there.
        """
        self._run.files.confirm()
        resolved: dict[Path, Path] = {}  # a folder -> the same one without links

        def others() -> Iterator[Path]:
            for name, entry in files:
                if name in self._written:  # nearly all of them, and a `Path` of each would take long
                    continue
                path = self._run.root / name
                if path.parent not in resolved:
                    resolved[path.parent] = path.parent.resolve()
                file = resolved[path.parent] / path.name
                # Names are compared as this version writes them: lists of earlier versions have whole paths, and
                # folders may have become links, where the export's folder was moved.
                if self._is_inside(file):
                    path = self._named / file.relative_to(self._root)
                    if self._run.paths.name(path) not in self._written and (not self._is_moved or _holds(file, entry)):
                        yield path

        self._run.files.remove(others())

    def require_unique_names(self) -> None:
        """
        Raises:
            RunError: the exporter gave two files the same name, so the second replaced the first.
        """
        if not self._written.has_repeats():
            return
        self._list.flush()
        seen: set[str] = set()
        for name, _ in read_entries(Path(self._list.name)):
            if name in seen:
                raise RunError(f"the exporter wrote {name} twice; it takes a different name for each file")
            seen.add(name)


class ExportedFolder:
    """See `backends.ExportedFolder`. Each file takes eight bytes of memory."""

    def __init__(self, run: Run, exporter: str) -> None:
        self._list, self._root = run.paths.export_list(exporter), run.paths.export(exporter)
        self._name = f"{exporter}/"
        self._all = NameSet(self.names())

    def names(self) -> Iterator[str]:
        for name, _ in read_entries(self._list):
            # Earlier versions listed whole paths where the export's folder had been moved.
            yield name.removeprefix(f"{self._root.resolve()}/").removeprefix(self._name)

    def has(self, name: str) -> bool:
        return name in self._all

    def open(self, name: str) -> IO[bytes]:
        """
        Raises:
            RunError: the exporter wrote no file of this name, or the file cannot be read.
        """
        if not self.has(name):
            raise RunError(f"the exporter wrote no file {self._name}{name}")
        try:
            return open(self._root / name, "rb")
        except OSError as error:
            raise RunError(f"{self._name}{name} cannot be read: {error.strerror}") from error


@contextmanager
def _naming(source: Path, encoding: ImageEncoding) -> Iterator[None]:
    """Puts the image into errors of its encoder, as a RunError."""
    try:
        yield
    except UnreadableImage as error:
        raise RunError(f"{source} is no readable image: {error}; delete it and run again to make it anew") from error
    except ValueError as error:
        raise RunError(f"{source} cannot be exported with `images: {encoding}`: {error}") from error


def _holds(path: Path, entry: Entry) -> bool:
    """Whether a file has the size and the checksum of an entry."""
    try:
        return path.stat().st_size == entry[0] and sha256(path) == entry[1]
    except OSError:
        return False


def _linked(source: Path, path: str) -> bool:
    """Makes `path` a hard link to `source`; False if the file system refuses."""
    try:
        os.link(source, path)
        return True
    except FileExistsError:
        folder, name = os.path.split(path)
        temporary = Path(folder, f".{name}.{os.getpid()}.tmp")
        try:
            if not Path(path).samefile(source):
                os.link(source, temporary)
                temporary.replace(path)
            return True
        except OSError:
            temporary.unlink(missing_ok=True)
            return False
    except OSError:
        return False
