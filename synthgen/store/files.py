"""Writes, removes and reads the files of a run folder, here and in the object store that the folder mirrors."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from synthgen.base.disk import free_bytes
from synthgen.base.file_lists import Entry
from synthgen.base.files import atomic, read_bytes
from synthgen.base.sealed import write_sealed
from synthgen.errors import OutOfRoom, RunError
from synthgen.store.mirror import Mirror
from synthgen.store.paths import Paths

SPARE_BYTES = 1_000_000  # stays free for marks, tables and Prefect's database


class Files:
    """The files of a run folder.

    Attributes:
        paths: the paths of the folder.
        mirror: None if the folder does not mirror one in an object store.
        confirm: called before anything in the folder changes. It raises RunError if another process has taken over the
            lock that this one held.
    """

    def __init__(self, paths: Paths, mirror: Mirror | None, confirm: Callable[[], None]) -> None:
        self.paths, self.mirror, self.confirm = paths, mirror, confirm
        self._leads_out: dict[Path, bool] = {}  # by folder of the run folder

    # Reading

    def local(self, path: Path) -> Path:
        """A file of the folder, fetched if only the store has it.

        Raises:
            RunError: see `inside`.
        """
        if self.mirror:
            self.mirror.fetch([self.paths.name(path)])
        return self.inside(path)

    def inside(self, path: Path) -> Path:
        """Checks the path of a file before it is read, and returns it: a run that came from elsewhere may hold links to
        any file of this machine. Files of exports are not checked, because their folders may be moved.

        Raises:
            RunError: a link on the way leads out of the folder.
        """
        if self.leads_out(path):
            raise RunError(f"{self.paths.name(path)} is not read: a link on its way leads out of {self.paths.root}")
        return path

    def inside_of(self, folder: Path) -> Callable[[str], Path]:
        """`inside` for the names of many files in one folder. Looks at the folder once, and then at those files alone
        that are links."""
        try:
            with os.scandir(folder) as entries:
                links = {entry.name for entry in entries if entry.is_symlink()}
        except OSError:  # The files may be in the store alone.
            links = set()
        leads_out, prefix = self.leads_out(folder / "file"), f"{folder}/"

        def inside(name: str) -> Path:
            path = Path(prefix + name)
            return self.inside(path) if leads_out or name in links else path

        return inside

    def leads_out(self, path: Path) -> bool:
        """Whether a link on the way to a file leads out of the folder."""
        folder = path.parent
        if folder not in self._leads_out:
            self._leads_out[folder] = self._is_outside(folder)
        return self._leads_out[folder] or (path.is_symlink() and self._is_outside(path))

    def _is_outside(self, path: Path) -> bool:
        try:
            return not path.resolve().is_relative_to(self.paths.root)
        except (OSError, RuntimeError):  # the links form a loop
            return True

    def has(self, name: str, size: int) -> bool:
        """Whether a file of this size is here or in the store."""
        try:
            if (self.paths.root / name).stat().st_size == size:
                return True
        except OSError:
            pass
        return self.mirror is not None and self.mirror.has(name, size)

    # Writing

    @contextmanager
    def writing(self, path: Path, *, synced: bool = True) -> Iterator[IO[bytes]]:
        """`atomic`, for a file of this folder."""
        self.confirm()  # before `atomic`, which would make the folder again if it is gone
        with atomic(path, synced=synced) as file:
            yield file
            self.confirm()

    def write_record(self, path: Path, content: Mapping[str, Any], files: Iterable[tuple[str, Entry]] = ()) -> None:
        """Writes a sealed record. Puts the `files` that it names into the store first, if there is one.

        Raises:
            RunError: the file does not hold what was written. A record decides what is done next, so without it a run
                would repeat the same work for ever.
        """
        self.confirm()
        if write_sealed(path, content) != read_bytes(path):
            raise RunError(f"{path} does not hold what was just written to it; check its disk")
        if self.mirror:
            self.mirror.put(dict(files))
            self.confirm()  # putting the files may have taken long
            self.publish(path)

    def publish(self, path: Path) -> None:
        """Puts a file that no mark names into the store, if there is one."""
        if self.mirror:
            self.mirror.put_records([self.paths.name(path)])

    def remove(self, paths: Iterable[Path]) -> None:
        """Removes files of the folder, first from the store if there is one."""
        paths = list(paths)
        if self.mirror:
            self.mirror.remove(map(self.paths.name, paths))
        for path in paths:
            path.unlink(missing_ok=True)

    def require_room(self, size: int) -> None:
        """Checks the free space before `size` bytes are written.

        Raises:
            OutOfRoom: they do not fit.
        """
        if (free := free_bytes(self.paths.root)) < size + SPARE_BYTES:
            raise OutOfRoom(
                f"{free / 1e6:.0f} MB are free for {self.paths.root}, too few to go on; what is finished is "
                "kept: free some and run the same command again"
            )
