"""Files that are whole or not there: written beside their place, flushed, renamed; JSON that shows its damage; long
lists of files; and the `~` in a path."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import math
import os
import shutil
import signal
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from io import BytesIO
from itertools import islice
from operator import eq
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import orjson
from pydantic import TypeAdapter, ValidationError

from synthgen.errors import FULL, OutOfRoom

TEMPORARY = ".*.[0-9]*.tmp"  # what names of files match that have not got their own yet
SEAL = "seal"
LIST = ".files"  # how the names of lists end
Entry = tuple[int, str]  # what a file holds: size in bytes, sha256
# What file systems answer that have no such thing as they are asked for: FAT, some of FUSE, network shares.
_UNKNOWN = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP}


def digest(value: Any) -> str:
    """sha256 of plain data, independent of the order of its keys."""
    return hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS)).hexdigest()


def at_home(path: str | Path) -> Path:
    """A path that a person gave, with their home, or another user's, for a `~` at its start. A shell does that only
    where it sees one: not in `--out=~/datasets`, in quotes, in a spec or in a service's environment."""
    with suppress(RuntimeError):  # there is no such user; the name stays as it is, as a shell has it
        return Path(path).expanduser()
    return Path(path)


def sha256(path: Path) -> str:
    with said_of(path), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_bytes(path: Path) -> bytes:
    with said_of(path):
        return path.read_bytes()


@contextmanager
def said_of(path: Path) -> Iterator[None]:
    """In it, what the system says of no file, since it was asked by a descriptor, is said of this one.

    Raises:
        OutOfRoom: the disk is full.
        OSError: anything else, with a file's name.
    """
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise OutOfRoom(f"no room left on the disk for {path}; free some and run the same command again") from error
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def atomic(path: Path) -> Iterator[IO[bytes]]:
    """A new file that has its name only once it is whole and on the disk.

    Raises:
        OutOfRoom: the disk is full; nothing of the file is left.
        OSError: the system refuses otherwise, and names the file.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with said_of(path):
            with _new(temporary) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            _fault("before", path)
            temporary.replace(path)
            _fault("after", path)
            _fsync_folder(path.parent)
    except OSError as error:
        if error.filename == str(temporary):
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        with suppress(OSError):  # a disk that fails has said so already, and `sweep` comes by
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
    except OSError as error:
        if error.errno not in {*_UNKNOWN, errno.EINVAL}:  # fsync(2): EINVAL where it cannot be asked of folders
            raise
    finally:
        os.close(handle)


def protect(path: Path) -> None:
    """Makes a file read-only, where the file system knows such files."""
    try:
        path.chmod(0o444)
    except OSError as error:
        if error.errno not in _UNKNOWN:
            raise


def free_bytes(folder: Path) -> float:
    """Of the disk that a folder is on, or will be; infinity where the file system does not say."""
    try:
        room = shutil.disk_usage(_standing(folder))
    except OSError as error:
        if error.errno not in {*_UNKNOWN, errno.ENOSYS}:
            raise
        return math.inf
    return room.free if room.total else math.inf


def _fault(when: str, path: Path) -> None:
    """For tests: `SYNTHGEN_FAULT="before */judge.json"` kills the process before (or after) a file that matches gets
    its name. Every commit of a run passes here."""
    wanted = os.environ.get("SYNTHGEN_FAULT")
    if wanted and wanted.split(" ")[0] == when and fnmatch(str(path), wanted.split(" ", 1)[1]):
        os.kill(os.getpid(), signal.SIGKILL)


def require_writable(folder: Path) -> None:
    """Tries to write where a folder is, or will be made; nothing is left of it.

    Raises:
        OutOfRoom: the disk is full.
        OSError: one may not.
    """
    with said_of(folder), TemporaryFile(dir=_standing(folder)):
        pass


def _standing(folder: Path) -> Path:
    """A folder, or the nearest one above it that there is."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    return place


def write_sealed(path: Path, content: Mapping[str, Any]) -> bytes:
    """JSON with a checksum of its own, under `SEAL`; -> what has been written."""
    options = orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS
    data = orjson.dumps({**content, SEAL: digest(content)}, option=options)
    with atomic(path) as file:
        file.write(data)
    return data


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
    with suppress(FileNotFoundError), BytesIO(file) if isinstance(file, bytes) else _lines(file) as lines:
        for line in lines:
            checksum, _, rest = line.decode(errors="surrogateescape").partition(" ")
            size, _, name = rest.partition(" ")
            if size.isascii() and size.isdecimal() and len(size) < 19 and name.endswith("\n") and "\0" not in name:
                yield name[:-1], (int(size), checksum)


@contextmanager
def _lines(path: Path) -> Iterator[IO[bytes]]:
    with said_of(path), open(path, "rb") as lines:
        yield lines


class Names:
    """A set of many names, each in eight bytes: a hash of 64 bits. Among a hundred thousand names, the chance that two
    have one hash is below 1e-9."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._hashes, self._is_sorted = array("q", map(hash, names)), False

    def add(self, name: str) -> None:
        self._hashes.append(hash(name))
        self._is_sorted = False

    def __len__(self) -> int:
        """How many were added, repeats included."""
        return len(self._hashes)

    def __contains__(self, name: str) -> bool:
        self._sort()
        place = bisect_left(self._hashes, wanted := hash(name))
        return place < len(self._hashes) and self._hashes[place] == wanted

    def has_repeats(self) -> bool:
        self._sort()
        return any(map(eq, self._hashes, islice(self._hashes, 1, None)))

    def _sort(self) -> None:
        if not self._is_sorted:
            import numpy as np  # not at the top: commands that read no run import this module too

            self._hashes, self._is_sorted = array("q", np.sort(self._hashes).tobytes()), True


def sweep(folder: Path) -> None:
    """Removes files in `folder`, not below it, that a process left unfinished when it was killed. Call it holding the
    run's lock: then no living process has one there."""
    for file in folder.glob(TEMPORARY):
        file.unlink(missing_ok=True)


def is_locked(file: Path) -> bool | None:
    """Whether another process of this host has a lock on a file, if it is there; None where the file system, or who may
    read the file, does not let that be known."""
    try:
        with open(file, "rb") as opened:
            fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    except OSError:
        return None
    return False


def formed(form: TypeAdapter[Any], raw: Any) -> Any:
    """Plain data in a form; None if it has another."""
    try:
        return form.validate_python(raw)
    except ValidationError:
        return None
