"""The large files of a repository, received so that another process can go on with them.

The hub's client gives each unfinished file a new name and removes it when the download fails, so that no process can
continue another's (huggingface_hub 1.32 to 2.4, `_download_to_tmp_and_move`). So these files are received here, by
ranges, into the place where the client keeps them: `blobs/CHECKSUM`, with `.incomplete` behind it while unfinished.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor, as_completed
from io import BufferedRandom
from pathlib import Path
from threading import Event, Lock

from synthgen.models.hub.client import first_line, is_of_connection
from synthgen.models.hub.repository import Repository
from synthgen.models.transfer import TIMEOUT_SECONDS, Progress, Report, alone, require_room

FILES_AT_ONCE = 4
LOST_AT_MOST = 5  # connections in a row that bring nothing
PAUSE_SECONDS = 1.0  # after a lost connection; twice as long after each further one
TRANSIENT = {408, 429, 500, 502, 503, 504}  # HTTP statuses after which the same request may succeed


class _Meter:
    """Counts the bytes of all files that are received at the same time."""

    def __init__(self, total: int, report: Report) -> None:
        self.total, self.here, self.received = total, 0, 0
        self._report, self._lock = report, Lock()

    def add(self, size: int, *, is_new: bool = False) -> None:
        """Counts bytes; `is_new`: they have come over the network."""
        with self._lock:
            self.here += size
            self.received += size * is_new
            self._report(Progress(self.here, self.total, self.received))


def receive_large(repository: Repository, names: Collection[str], report: Report) -> None:
    """Receives the large files that are missing, several at the same time.

    Raises:
        ValueError: one cannot be received. What has come of it, and of others, is kept.
        OutOfRoom: the disk has no room for all of them.
    """
    from huggingface_hub import constants

    missing = repository.missing(names)
    blobs = repository.cache / "blobs"
    # Plain HTTP does not give larger files, see `huggingface_hub.constants`; those are left to the client.
    large = {
        repository.checksums[name]: name
        for name, size in missing.items()
        if name in repository.checksums and size <= constants.MAX_HTTP_DOWNLOAD_SIZE
    }
    parts = [blobs / f"{checksum}.incomplete" for checksum in large]
    require_room(blobs, sum(missing.values()) - sum(part.stat().st_size for part in parts if part.is_file()))
    meter, stop = _Meter(sum(missing[name] for name in large.values()), report), Event()
    blobs.mkdir(parents=True, exist_ok=True)

    def receive(checksum: str) -> None:
        try:
            if not stop.is_set():
                _receive(repository, large[checksum], blobs / checksum, meter, stop)
        except BaseException:
            stop.set()
            raise

    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        for done in as_completed([pool.submit(receive, checksum) for checksum in large]):
            done.result()


class _Unfinished:
    """A large file that is received. `file`: its partial file, locked."""

    def __init__(self, repository: Repository, name: str, file: BufferedRandom, meter: _Meter, stop: Event) -> None:
        self.repository, self.name, self.file, self.meter, self.stop = repository, name, file, meter, stop
        self.size = repository.sizes[name]
        if file.seek(0, os.SEEK_END) > self.size:
            file.truncate(0)
        file.seek(0)
        self.digest = hashlib.file_digest(file, "sha256")
        meter.add(file.tell())

    def receive(self) -> None:
        """Goes on until the file is whole, by as many connections as it takes.

        Raises:
            ValueError: connections were lost again and again.
        """
        lost = 0
        while (before := self.file.tell()) < self.size and not self.stop.is_set():
            reason = "it was closed"
            try:
                self._stream()
            except Exception as error:
                status = getattr(getattr(error, "response", None), "status_code", None)
                if status not in TRANSIENT and (status is not None or not is_of_connection(error)):
                    raise
                reason = f"{type(error).__name__}: {first_line(error)}"
            if (here := self.file.tell()) >= self.size or self.stop.is_set():
                return
            lost = lost + 1 if here <= before else 1
            if lost >= LOST_AT_MOST:
                kept = "what has come is kept, and the same command goes on from there" if here else "try again"
                raise ValueError(
                    f"the connection was lost after {here:,} of {self.size:,} bytes of {self.name} ({reason}); {kept}"
                )
            time.sleep(PAUSE_SECONDS * 2 ** (lost - 1))

    def _stream(self) -> None:
        """Appends what one connection brings. Raises: errors of the client, and of its HTTP library."""
        from huggingface_hub import get_session, hf_hub_url
        from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]

        url = hf_hub_url(self.repository.model, self.name, revision=self.repository.commit)
        here = self.file.tell()
        # A compressed answer would have no ranges. The session tells the token to the hub alone, and to no other host
        # that the hub names.
        headers = {**build_hf_headers(), "Accept-Encoding": "identity"} | ({"Range": f"bytes={here}-"} if here else {})
        with get_session().stream("GET", url, headers=headers, timeout=TIMEOUT_SECONDS) as response:
            hf_raise_for_status(response)
            if here and response.status_code != 206:  # a server without ranges sends the whole file
                self.restart()
            for chunk in response.iter_raw():
                self.file.write(chunk)
                self.digest.update(chunk)
                self.meter.add(len(chunk), is_new=True)
                if self.stop.is_set():
                    return

    def restart(self) -> None:
        self.meter.add(-self.file.tell())
        self.file.seek(0)
        self.file.truncate()
        self.digest = hashlib.sha256()


def _receive(repository: Repository, name: str, blob: Path, meter: _Meter, stop: Event) -> None:
    """Receives one file, from where an earlier download has ended, and gives it its name if it has its checksum.

    Args:
        blob: its place in the client's cache, named by its checksum.

    Raises:
        ValueError: the connection was lost again and again, or the file is not what the hub says.
    """
    part = blob.with_name(f"{blob.name}.incomplete")
    with alone(part) as file:
        if blob.is_file():  # another process has fetched it meanwhile
            part.unlink()
            meter.add(repository.sizes[name])
            return
        unfinished = _Unfinished(repository, name, file, meter, stop)
        unfinished.receive()
        if stop.is_set():
            return
        if unfinished.digest.hexdigest() != blob.name:
            unfinished.restart()
            raise ValueError(f"what came of {name} has another checksum than the hub says; it is not kept, try again")
        file.flush()
        os.fsync(file.fileno())
        part.replace(blob)
