"""Files that are whole or not there: written under a temporary name, synced to the disk, renamed."""

from __future__ import annotations

import ctypes
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

TEMPORARY_PATTERN = ".*.[0-9]*.tmp"  # matches the temporary names that `atomic` gives
# File systems without modes, or without fsync of folders, answer with these: FAT, some of FUSE, network shares.
UNSUPPORTED = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP}


def expand_home(path: str | Path) -> Path:
    """Replaces a `~` at the start of a path by the user's home, and `~name` by that user's.

    A shell expands neither in `--out=~/datasets`, nor in quotes, in a spec or in a service's environment.
    """
    with suppress(RuntimeError):  # There is no such user: the path stays as it is, as in a shell.
        return Path(path).expanduser()
    return Path(path)


def sha256(path: Path) -> str:
    """The hex digest of a file's content. Raises: OSError, with the file's name."""
    with naming_errors(path), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_bytes(path: Path) -> bytes:
    """A file's content. Raises: OSError, with the file's name."""
    with naming_errors(path):
        return path.read_bytes()


@contextmanager
def naming_errors(path: Path) -> Iterator[None]:
    """Puts the path into errors that name no file: the system names none where it was called with a descriptor.

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
def atomic(path: Path, *, synced: bool = True) -> Iterator[IO[bytes]]:
    """Opens a new file that gets its name only once it is whole and on the disk. If the block fails, the file of that
    name stays as it was.

    Args:
        synced: False: the caller syncs the disk after many files, by `sync_disk`. To wait for each takes milliseconds.

    Raises:
        OutOfRoom: the disk is full; nothing of the new file is left.
        OSError: the system refuses for another reason; the error names the file.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with naming_errors(path):
            with _new(temporary) as file:
                yield file
                file.flush()
                if synced:
                    os.fsync(file.fileno())
            _fault("before", path)
            temporary.replace(path)
            _fault("after", path)
            if synced:
                _fsync_folder(path.parent)
    except OSError as error:
        if error.filename == str(temporary):
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        with suppress(OSError):  # A disk that fails has raised its error already; `remove_temporary` removes the rest.
            temporary.unlink(missing_ok=True)


def sync_disk(folder: Path) -> None:
    """Waits until all that has been written to the disk of a folder is on it, names of files too: syncfs(2). Where the
    system lacks that, sync(2) for all disks.

    Raises:
        OutOfRoom: the disk is full.
        OSError: something could not be written.
    """
    syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if syncfs is None:
        os.sync()
        return
    with naming_errors(folder):
        handle = os.open(folder, os.O_RDONLY)
        try:
            if syncfs(handle) != 0:
                code = ctypes.get_errno()
                raise OSError(code, os.strerror(code))
        finally:
            os.close(handle)


def _new(path: Path) -> IO[bytes]:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return open(path, "wb")
    except FileNotFoundError:  # Another worker has just removed the folder, which was empty.
        path.parent.mkdir(parents=True, exist_ok=True)
        return open(path, "wb")


def _fsync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in {*UNSUPPORTED, errno.EINVAL}:  # fsync(2): EINVAL where folders cannot be synced
            raise
    finally:
        os.close(handle)


def make_read_only(path: Path) -> None:
    """Makes a file read-only; does nothing on file systems without modes."""
    try:
        path.chmod(0o444)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise


def _fault(when: str, path: Path) -> None:
    """Kills the process for tests: `SYNTHGEN_FAULT="before */judge.json"` does so before (or after) a file that matches
    gets its name. Every commit of a run calls this."""
    wanted = os.environ.get("SYNTHGEN_FAULT")
    if wanted and wanted.split(" ")[0] == when and fnmatch(str(path), wanted.split(" ", 1)[1]):
        os.kill(os.getpid(), signal.SIGKILL)


def remove_temporary(folder: Path) -> None:
    """Removes the unfinished files that killed processes left in `folder`, but none in folders below it.

    The caller holds the run's lock, so no living process has such a file there.
    """
    for file in folder.glob(TEMPORARY_PATTERN):
        file.unlink(missing_ok=True)
