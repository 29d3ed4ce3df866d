"""Who is at work in a folder: a lock that dies with its holder, and a lease where locks do not reach other hosts.

The lock is the kernel's (flock). Among processes of one host it decides alone. On NFS without a lock service, SMB and
mounts of object stores, other hosts may not see it. So the lock's file also names its holder, who writes the name again
every few seconds. Another host takes the folder only if that has not happened for a minute, by the store's own clock. A
holder that was away for so long (a suspended laptop) finds another name there, and stops before it writes.

The name of the holder is in a `Slot`: that file, or an object in a store.
"""

from __future__ import annotations

import fcntl
import os
import platform
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import BinaryIO, Protocol

from synthgen.base import interrupts
from synthgen.base.files import naming_errors
from synthgen.base.locks import is_locked
from synthgen.base.wording import plain
from synthgen.errors import NotWritable, RunError

LEASE_SECONDS = 60.0  # after this time without a sign of life, another host may take the folder
HEARTBEAT_SECONDS = 10.0  # between signs of life
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # goes on while the machine sleeps
_BOOT_FILE = Path("/proc/sys/kernel/random/boot_id")  # the same in all containers of a machine, which share locks
_MOST_BYTES = 1000  # of a slot's content


class Slot(Protocol):
    """Where the name of a folder's holder is written, in at most `_MOST_BYTES`. All times are by the store's clock.

    Attributes:
        where: path or URL of the folder, for messages.
        reach: an id of the processes among which the lock works. Holders with the same reach exclude each other by it.
    """

    @property
    def where(self) -> str: ...

    @property
    def reach(self) -> str: ...

    def reaches(self, host: str, reach: str) -> bool:
        """Whether our lock works for a holder with this host and reach: if we hold the lock, that holder has ended."""

    def read(self) -> bytes:
        """Raises:
        FileNotFoundError: the slot does not exist.
        OSError: the store does not answer.
        """

    def take(self, content: bytes, ended: bytes) -> None:
        """Writes our name into an empty slot, or over `ended`, the content of an ended lease.

        Raises:
            RunError: another process was quicker.
        """

    def renew(self, content: bytes) -> bytes:
        """Writes our name again if it is still there. Returns what was there. Raises what `read` raises."""

    def clear(self, content: bytes) -> None:
        """Removes our name if it is still there. Raises what `read` raises."""

    def is_there(self) -> bool:
        """Whether our name is still where we wrote it. A cheap check, which may miss a change."""

    def age(self) -> float:
        """Seconds since the name was written, by the store's clock only: the clocks of its hosts may be wrong."""


class FileSlot:
    """A file in a folder that hosts share; the lock is on this file."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._taken: os.stat_result | None = None
        self.where = str(file.parent)
        self.reach = boot_id()

    def reaches(self, host: str, reach: str) -> bool:
        return host == platform.node() or reach == self.reach

    @contextmanager
    def _open(self, mode: str) -> Iterator[FileIO]:
        """Opens the file each time, because NFS asks its server for changes only then."""
        with naming_errors(self._file), FileIO(self._file, mode) as file:
            yield file

    def read(self) -> bytes:
        with self._open("r") as file:
            return file.read(_MOST_BYTES)

    def take(self, content: bytes, ended: bytes) -> None:
        with self._open("r+") as file:
            file.write(content)  # before truncating, so that nobody ever reads an empty file
            file.truncate()
            self._taken = os.fstat(file.fileno())

    def renew(self, content: bytes) -> bytes:
        with self._open("r+") as file:
            current = file.read(_MOST_BYTES)
            if current == content:
                file.seek(0)
                file.write(content)
            return current

    def clear(self, content: bytes) -> None:
        with self._open("r+") as file:
            if file.read(_MOST_BYTES) == content:
                file.truncate(0)

    def is_there(self) -> bool:
        try:
            return self._taken is not None and os.path.samestat(self._taken, self._file.stat())
        except FileNotFoundError:
            return False

    def age(self) -> float:
        now = self._file.with_name(f".{self._file.name}.{os.getpid()}.tmp")
        try:
            with naming_errors(now):
                now.write_bytes(b"now")
            return now.stat().st_mtime - self._file.stat().st_mtime
        finally:
            now.unlink(missing_ok=True)


class Lease:
    """The hold of this process on a folder, named in its slot."""

    def __init__(self, slot: Slot) -> None:
        self._slot = slot
        self._content = f"pid {os.getpid()} on {platform.node()}\n{slot.reach} {secrets.token_hex(8)}\n".encode()
        self._mutex = threading.Lock()
        self._renewed = 0.0
        self._lost = ""

    def take(self, ended: bytes) -> None:
        self._slot.take(self._content, ended)
        self._renewed = time.clock_gettime(_CLOCK)

    def renew(self) -> None:
        """Writes our name again if it is still there. If not, `confirm` and `interrupts.raise_if_stopped` raise from
        now on."""
        with self._mutex:
            now = time.clock_gettime(_CLOCK)
            try:
                current = self._slot.renew(self._content)
                if current == self._content:
                    self._renewed = now
                    return
                self._lost = (
                    f"{_name(current) or 'another process'} has taken over {self._slot.where}, since this process (pid "
                    f"{os.getpid()}) gave no sign of life for {now - self._renewed:.0f} s"
                )
            except FileNotFoundError:
                self._lost = (
                    f"{self._slot.where} has been moved or removed, or its lock, which names this process (pid "
                    f"{os.getpid()}), has been removed"
                )
            except OSError:
                return  # the store does not answer, so the others cannot renew either; the next heartbeat tries again
            self._lost += "; it stops and writes nothing more"
            interrupts.halt(RunError(self._lost))

    def confirm(self) -> None:
        """Called before something is written.

        Raises:
            RunError: another process has the folder now.
        """
        is_old = time.clock_gettime(_CLOCK) - self._renewed > LEASE_SECONDS / 2
        if not self._lost and (is_old or not self._slot.is_there()):
            self.renew()
        if self._lost:
            raise RunError(self._lost)

    def clear(self) -> None:
        with suppress(OSError):
            self._slot.clear(self._content)


@contextmanager
def held(file: Path) -> Iterator[Lease]:
    """Keeps all other processes out of the folder of a file. Makes the file if it does not exist.

    Raises:
        RunError: another process is at work there; names it and its host.
        NotWritable: this process may not write there.
        OutOfRoom: there is no room to write the name.
    """
    slot = FileSlot(file)
    with _opened(file) as opened:
        locked = True
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(f"another process ({_name(slot.read()) or 'unknown'}) is at work in {slot.where}") from error
        except OSError:
            locked = False  # a store without locks: the lease alone decides
        with leased(slot, locked) as lease:
            yield lease


@contextmanager
def leased(slot: Slot, locked: bool = True) -> Iterator[Lease]:
    """`held` without its lock. `locked`: whether the store has locks; the caller then holds the lock already.

    Raises:
        RunError: another process is at work there; names it and its host.
    """
    current = read_lease(slot)
    if other := _other(slot, current, locked):
        raise RunError(
            f"another process ({other}) is at work in {slot.where}; if it was killed, the folder is free "
            f"{LEASE_SECONDS:.0f} s after its last sign of life"
        )
    lease, ended = Lease(slot), threading.Event()
    lease.take(current)
    thread = threading.Thread(target=_beat, args=(lease, ended), name="lease", daemon=True)
    thread.start()
    try:
        yield lease
    finally:
        ended.set()
        thread.join()
        interrupts.halt(None)
        lease.clear()


@contextmanager
def _opened(file: Path) -> Iterator[BinaryIO]:
    try:
        with naming_errors(file):
            opened = open(file, "a+b")  # noqa: SIM115
    except OSError as error:
        raise NotWritable(f"{file.parent} cannot be written: {error.strerror}") from error
    try:
        yield opened
    finally:
        with suppress(OSError):  # nothing was written through it
            opened.close()


def holder(file: Path) -> str:
    """The process that is at work in the folder of a file, with its host; "" for none."""
    locked = is_locked(file)
    if locked:
        return _name(FileSlot(file).read()) or "another process"
    return named(FileSlot(file), locked is not None)


def named(slot: Slot, locked: bool = True) -> str:
    """`holder` without the lock. `locked`: whether the store has locks; nobody holds the lock then."""
    current = read_lease(slot)
    try:
        return _other(slot, current, locked)
    except PermissionError:  # to tell the age of a lease, a file is written beside it
        return _name(current)


def _beat(lease: Lease, ended: threading.Event) -> None:
    while not ended.wait(HEARTBEAT_SECONDS):
        lease.renew()


def read_lease(slot: Slot) -> bytes:
    """The content of a lease; b"" if there is none or it may not be read."""
    try:
        return slot.read()
    except (FileNotFoundError, PermissionError):
        return b""


def _other(slot: Slot, content: bytes, locked: bool) -> str:
    """The process whose lease is valid; "" for none. Where our lock works, the lock has decided already, so only leases
    beyond its reach count."""
    name, _, rest = content.decode(errors="replace").partition("\n")
    host, reach = name.partition(" on ")[2], rest.partition(" ")[0]
    if not host or (locked and slot.reaches(host, reach)):
        return ""
    # A time far in the future ends a lease too, so that a clock which was wrong once does not bar a folder for ever.
    return _name(content) if abs(slot.age()) < LEASE_SECONDS else ""


def _name(content: bytes) -> str:
    """`pid 12 on laptop`, in one line, even if the content is damaged."""
    return plain(content.decode(errors="replace").partition("\n")[0], 100)


def boot_id() -> str:
    """An id of the current boot of this machine, else its host name."""
    try:
        return _BOOT_FILE.read_text(encoding="ascii").strip()
    except OSError:
        return platform.node() or "unknown"
