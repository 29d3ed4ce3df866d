"""Files that are whole or not there: written under a temporary name, synced to the disk, renamed."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import IO

from synthgen.errors import FULL, OutOfRoom

TEMPORARY_PATTERN = ".*.[0-9]*.tmp"  # what names of files match that have not got their own yet
# What file systems answer that have no such thing as they are asked for: FAT, some of FUSE, network shares.
UNSUPPORTED = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP}


def expand_home(path: str | Path) -> Path:
    """A path that a person gave, with their home, or another user's, for a `~` at its start. A shell does that only
    where it sees one: not in `--out=~/datasets`, in quotes, in a spec or in a service's environment."""
    with suppress(RuntimeError):  # there is no such user; the name stays as it is, as a shell has it
        return Path(path).expanduser()
    return Path(path)


def sha256(path: Path) -> str:
    with naming_errors(path), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_bytes(path: Path) -> bytes:
    with naming_errors(path):
        return path.read_bytes()


@contextmanager
def naming_errors(path: Path) -> Iterator[None]:
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
        with naming_errors(path):
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
        if error.errno not in {*UNSUPPORTED, errno.EINVAL}:  # fsync(2): EINVAL where it cannot be asked of folders
            raise
    finally:
        os.close(handle)


def make_read_only(path: Path) -> None:
    """Makes a file read-only, where the file system knows such files."""
    try:
        path.chmod(0o444)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise


def _fault(when: str, path: Path) -> None:
    """For tests: `SYNTHGEN_FAULT="before */judge.json"` kills the process before (or after) a file that matches gets
    its name. Every commit of a run passes here."""
    wanted = os.environ.get("SYNTHGEN_FAULT")
    if wanted and wanted.split(" ")[0] == when and fnmatch(str(path), wanted.split(" ", 1)[1]):
        os.kill(os.getpid(), signal.SIGKILL)


def remove_temporary(folder: Path) -> None:
    """Removes files in `folder`, not below it, that a process left unfinished when it was killed. Call it holding the
    run's lock: then no living process has one there."""
    for file in folder.glob(TEMPORARY_PATTERN):
        file.unlink(missing_ok=True)
