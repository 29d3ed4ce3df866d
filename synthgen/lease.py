"""Who is at work in a folder: a lock that dies with its holder, and a lease where locks do not reach other hosts.

The lock is the kernel's (flock), and decides alone among processes of one host. NFS without a lock service, SMB and
mounts of object stores may keep it from other hosts; so the lock's file names its holder, who writes it again every
few seconds. Another host takes the folder only after a minute without that, by the store's own clock. A holder that was
away for so long (a suspended laptop) finds another's name there, and stops before it writes.
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
from pathlib import Path

from synthgen import interrupts
from synthgen.errors import RunError
from synthgen.wording import plain

LEASE_SECONDS = 60.0  # without a sign of life, after which another host may take the folder
HEARTBEAT_SECONDS = 10.0  # between signs of life
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # goes on while the machine sleeps
_BOOT_FILE = Path("/proc/sys/kernel/random/boot_id")  # the same in all containers of a machine, which share locks
_MOST_BYTES = 1000  # of a lock's file


class Lease:
    """A folder that is ours, as the file says."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._content = f"pid {os.getpid()} on {platform.node()}\n{_boot()} {secrets.token_hex(8)}\n".encode()
        self._mutex = threading.Lock()
        self._renewed = 0.0
        self._lost = ""

    def take(self) -> None:
        with open(self._file, "r+b", buffering=0) as file:
            file.write(self._content)  # first, so that nobody ever finds the file empty
            file.truncate()
        self._renewed = time.clock_gettime(_CLOCK)

    def renew(self) -> None:
        """Writes our name again, if it is there still; else `confirm` and `interrupts.checkpoint` raise from now on."""
        with self._mutex:
            now = time.clock_gettime(_CLOCK)
            try:
                with open(self._file, "r+b", buffering=0) as file:  # anew: NFS compares with the server's on opening
                    found = file.read(_MOST_BYTES)
                    if found == self._content:
                        file.seek(0)
                        file.write(self._content)
                        self._renewed = now
                        return
            except FileNotFoundError:
                found = b""
            except OSError:
                return  # the store is away: so are the others' signs of life, and ours are tried again
            self._lost = (
                f"{_name(found) or 'another process'} has taken over {self._file.parent}, since this process (pid "
                f"{os.getpid()}) gave no sign of life for {now - self._renewed:.0f} s; it stops and writes nothing more"
            )
            interrupts.halt(RunError(self._lost))

    def confirm(self) -> None:
        """Called before something is written.

        Raises:
            RunError: another process has the folder now.
        """
        if not self._lost and time.clock_gettime(_CLOCK) - self._renewed > LEASE_SECONDS / 2:
            self.renew()
        if self._lost:
            raise RunError(self._lost)

    def clear(self) -> None:
        with suppress(OSError), open(self._file, "r+b", buffering=0) as file:
            if file.read(_MOST_BYTES) == self._content:
                file.truncate(0)


@contextmanager
def held(file: Path) -> Iterator[Lease]:
    """Keeps all others out of the folder of a file, which is made if it is not there.

    Raises:
        RunError: another process is at work there; says which, and on which host.
    """
    with open(file, "a+b") as opened:
        locked = True
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(
                f"another process ({_name(_read(file)) or 'unknown'}) is at work in {file.parent}"
            ) from error
        except OSError:
            locked = False  # a store without locks: the lease alone decides
        if other := _other(file, locked):
            raise RunError(
                f"another process ({other}) is at work in {file.parent}; if it has ended without a word, the folder is "
                f"free {LEASE_SECONDS:.0f} s after its last sign of life"
            )
        lease, ended = Lease(file), threading.Event()
        lease.take()
        thread = threading.Thread(target=_beat, args=(lease, ended), name="lease", daemon=True)
        thread.start()
        try:
            yield lease
        finally:
            ended.set()
            thread.join()
            interrupts.halt(None)
            lease.clear()


def holder(file: Path) -> str:
    """Who is at work in the folder of a file: process and host; "" for nobody."""
    locked = True
    try:
        with open(file, "rb") as opened:
            fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return ""
    except BlockingIOError:
        return _name(_read(file)) or "another process"
    except OSError:
        locked = False
    try:
        return _other(file, locked)
    except PermissionError:  # the age of a lease takes a file beside it
        return _name(_read(file))


def _beat(lease: Lease, ended: threading.Event) -> None:
    while not ended.wait(HEARTBEAT_SECONDS):
        lease.renew()


def _other(file: Path, locked: bool) -> str:
    """The process that holds a lease, if it is not ended: of another host, since on ours the lock, where there are
    locks, has decided. "" if there is none."""
    content = _read(file)
    name, _, rest = content.decode(errors="replace").partition("\n")
    host, boot = name.partition(" on ")[2], rest.partition(" ")[0]
    if not host or (locked and (host == platform.node() or boot == _boot())):
        return ""
    # A time far in the future ends it too: a clock that was wrong once shall not bar a folder for ever.
    return _name(content) if abs(_age(file)) < LEASE_SECONDS else ""


def _age(file: Path) -> float:
    """Seconds since a file was written. Both times are the store's, however wrong the clocks of its hosts are."""
    now = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        now.write_bytes(b"now")
        return now.stat().st_mtime - file.stat().st_mtime
    finally:
        now.unlink(missing_ok=True)


def _read(file: Path) -> bytes:
    with open(file, "rb") as opened:
        return opened.read(_MOST_BYTES)


def _name(content: bytes) -> str:
    """`pid 12 on laptop`, in one line whatever stands there."""
    return plain(content.decode(errors="replace").partition("\n")[0], 100)


def _boot() -> str:
    try:
        return _BOOT_FILE.read_text(encoding="ascii").strip()
    except OSError:
        return platform.node() or "unknown"
