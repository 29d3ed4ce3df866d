"""Files that are whole or not there: written beside their place, flushed, renamed; JSON that shows its damage; and long
lists of files."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import orjson

from synthgen.errors import FULL, OutOfRoom

TEMPORARY = ".*.tmp"  # what names of files match that have not got their own yet
SEAL = "seal"
LIST = ".files"  # how the names of lists end
Entry = tuple[int, str]  # what a file holds: size in bytes, sha256


def digest(value: Any) -> str:
    """sha256 of plain data, independent of the order of its keys."""
    return hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS)).hexdigest()


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def atomic(path: Path) -> Iterator[IO[bytes]]:
    """A new file that has its name only once it is whole and on the disk.

    Raises:
        OutOfRoom: the disk is full; nothing of the file is left.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with _new(temporary) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        _fault("before", path)
        temporary.replace(path)
        _fault("after", path)
        _fsync_folder(path.parent)
    except OSError as error:
        if error.errno in FULL:
            raise OutOfRoom(f"no room left on the disk for {path}; free some and run the same command again") from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _new(path: Path) -> IO[bytes]:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return open(path, "wb")
    except FileNotFoundError:  # another worker has just removed the folder, which was empty
        path.parent.mkdir(parents=True, exist_ok=True)
        return open(path, "wb")


def _fsync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _fault(when: str, path: Path) -> None:
    """For tests: `SYNTHGEN_FAULT="before */judge.json"` kills the process before (or after) a file that matches gets
    its name. Every commit of a run passes here."""
    wanted = os.environ.get("SYNTHGEN_FAULT")
    if wanted and wanted.split(" ")[0] == when and fnmatch(str(path), wanted.split(" ", 1)[1]):
        os.kill(os.getpid(), signal.SIGKILL)


def require_writable(folder: Path) -> None:
    """Tries to write where a folder is, or will be made; nothing is left of it.

    Raises:
        OSError: one may not.
    """
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    with TemporaryFile(dir=place):
        pass


def write_sealed(path: Path, content: Mapping[str, Any]) -> None:
    """JSON with a checksum of its own, under `SEAL`."""
    with atomic(path) as file:
        file.write(
            orjson.dumps(
                {**content, SEAL: digest(content)},
                option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS,
            )
        )


def read_sealed(path: Path) -> dict[str, Any] | None:
    """What `write_sealed` wrote; None if it is not there or not what was written."""
    try:
        content: dict[str, Any] = orjson.loads(path.read_bytes())
        seal = content.pop(SEAL)
        return content if seal == digest(content) else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def list_line(name: str, entry: Entry) -> bytes:
    """A line of a list; the name has no line break in it."""
    return f"{entry[1]} {entry[0]} {name}\n".encode(errors="surrogateescape")


def listed(file: Path | bytes) -> Iterator[tuple[str, Entry]]:
    """The lines of a list, or of what is in one: one at a time, but for those that are no such lines. None if it is not
    there."""
    with suppress(FileNotFoundError), BytesIO(file) if isinstance(file, bytes) else open(file, "rb") as lines:
        for line in lines:
            checksum, _, rest = line.decode(errors="surrogateescape").partition(" ")
            size, _, name = rest.partition(" ")
            if size.isascii() and size.isdecimal() and len(size) < 19 and name.endswith("\n") and "\0" not in name:
                yield name[:-1], (int(size), checksum)


def sweep(folder: Path) -> None:
    """Removes files in `folder`, not below it, that a process left unfinished when it was killed. Call it holding the
    run's lock: then no living process has one there."""
    for file in folder.glob(TEMPORARY):
        file.unlink(missing_ok=True)
