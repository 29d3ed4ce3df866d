"""Who is at work in a folder: a lock that dies with its holder, and a lease where locks do not reach other hosts.

The lock is the kernel's (flock), and decides alone among processes of one host. NFS without a lock service, SMB and
mounts of object stores may keep it from other hosts; so the lock's file names its holder, who writes it again every
few seconds. Another host takes the folder only after a minute without that, by the store's own clock. A holder that was
away for so long (a suspended laptop) finds another's name there, and stops before it writes.

What names the holder is a `Slot`: that file, or an object in a store.
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

LEASE_SECONDS = 60.0  # after this long without a sign of life, another host may take the folder
HEARTBEAT_SECONDS = 10.0  # between signs of life
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # goes on while the machine sleeps
_BOOT_FILE = Path("/proc/sys/kernel/random/boot_id")  # the same in all containers of a machine, which share locks
_MOST_BYTES = 1000  # of what names a holder


class Slot(Protocol):
    """Where the name of a folder's holder is written, in at most `_MOST_BYTES`. All times are by the store's clock.

    Attributes:
        where: the folder, as people know it.
        reach: how far the lock beside it reaches: that lock keeps apart all holders who write the same reach.
    """

    @property
    def where(self) -> str: ...

    @property
    def reach(self) -> str: ...

    def reaches(self, host: str, reach: str) -> bool:
        """Whether that holder, if it were alive, would hold the lock beside it, which we hold."""

    def read(self) -> bytes:
        """Raises:
        FileNotFoundError: there is nothing.
        OSError: the store does not answer.
        """

    def take(self, content: bytes, ended: bytes) -> None:
        """Writes our name, where there is none or where the name of an ended lease, `ended`, was read.

        Raises:
            RunError: another process was quicker.
        """

    def renew(self, content: bytes) -> bytes:
        """Writes our name again if it is still there; returns what was there. Raises as `read`."""

    def clear(self, content: bytes) -> None:
        """Removes our name if it is still there. Raises as `read`."""

    def is_there(self) -> bool:
        """Whether our name is still where we wrote it, as far as a cheap look can tell."""

    def age(self) -> float:
        """Seconds since the name was written, by the store's clock alone: the clocks of its hosts may be wrong."""


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
        """Anew each time: NFS compares with the server's on opening."""
        with naming_errors(self._file), FileIO(self._file, mode) as file:
            yield file

    def read(self) -> bytes:
        with self._open("r") as file:
            return file.read(_MOST_BYTES)

    def take(self, content: bytes, ended: bytes) -> None:
        with self._open("r+") as file:
            file.write(content)  # first, so that nobody ever finds the file empty
            file.truncate()
            self._taken = os.fstat(file.fileno())

    def renew(self, content: bytes) -> bytes:
        with self._open("r+") as file:
            found = file.read(_MOST_BYTES)
            if found == content:
                file.seek(0)
                file.write(content)
            return found

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
    """A folder that this process holds, as its slot says."""

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
        now."""
        with self._mutex:
            now = time.clock_gettime(_CLOCK)
            try:
                found = self._slot.renew(self._content)
                if found == self._content:
                    self._renewed = now
                    return
                self._lost = (
                    f"{_name(found) or 'another process'} has taken over {self._slot.where}, since this process (pid "
                    f"{os.getpid()}) gave no sign of life for {now - self._renewed:.0f} s"
                )
            except FileNotFoundError:
                self._lost = (
                    f"{self._slot.where} has been moved or removed, or what says in it that this process (pid "
                    f"{os.getpid()}) is at work there"
                )
            except OSError:
                return  # the store is away: so are the others' signs of life, and ours are tried again
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
    """Keeps all others out of the folder of a file. The file is made if it does not exist.

    Raises:
        RunError: another process is at work there; says which, and on which host.
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
    """`held` without its lock. `locked`: whether there is a lock, which we hold already.

    Raises:
        RunError: another process is at work there; says which, and on which host.
    """
    found = read_lease(slot)
    if other := _other(slot, found, locked):
        raise RunError(
            f"another process ({other}) is at work in {slot.where}; if it has ended without a word, the folder is "
            f"free {LEASE_SECONDS:.0f} s after its last sign of life"
        )
    lease, ended = Lease(slot), threading.Event()
    lease.take(found)
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
        with suppress(OSError):  # nothing has been written by it
            opened.close()


def holder(file: Path) -> str:
    """Who is at work in the folder of a file: process and host; "" for nobody."""
    locked = is_locked(file)
    if locked:
        return _name(FileSlot(file).read()) or "another process"
    return named(FileSlot(file), locked is not None)


def named(slot: Slot, locked: bool = True) -> str:
    """`holder` without the lock. `locked`: whether there is a lock, which nobody holds."""
    found = read_lease(slot)
    try:
        return _other(slot, found, locked)
    except PermissionError:  # the age of a lease takes a file beside it
        return _name(found)


def _beat(lease: Lease, ended: threading.Event) -> None:
    while not ended.wait(HEARTBEAT_SECONDS):
        lease.renew()


def read_lease(slot: Slot) -> bytes:
    """The content of a lease; b"" if there is none, or it may not be read."""
    try:
        return slot.read()
    except (FileNotFoundError, PermissionError):
        return b""


def _other(slot: Slot, content: bytes, locked: bool) -> str:
    """The process that holds a lease, if it is not ended: beyond the reach of our lock, since within it the lock, where
    there are locks, has decided. "" if there is none."""
    name, _, rest = content.decode(errors="replace").partition("\n")
    host, reach = name.partition(" on ")[2], rest.partition(" ")[0]
    if not host or (locked and slot.reaches(host, reach)):
        return ""
    # A time far in the future ends it too: a clock that was wrong once shall not bar a folder for ever.
    return _name(content) if abs(slot.age()) < LEASE_SECONDS else ""


def _name(content: bytes) -> str:
    """`pid 12 on laptop`, in one line whatever stands there."""
    return plain(content.decode(errors="replace").partition("\n")[0], 100)


def boot_id() -> str:
    """An id of this start of the machine, else its host name."""
    try:
        return _BOOT_FILE.read_text(encoding="ascii").strip()
    except OSError:
        return platform.node() or "unknown"
