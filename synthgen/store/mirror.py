"""A run folder on this machine that mirrors one in an object store: `--out s3://bucket/datasets`.

The store is the truth, and only marks decide what is in it. A mark is put after all files that it names, and removed
before any of them. A store's put is atomic, so nothing is renamed. So a process that is killed anywhere leaves files
that no mark names, which the next one overwrites, or marks whose files all exist.

On this machine, everything works on plain files. Before that, the folder is synced with the store. The sync fetches
records (the spec, `run.json`, rounds, reviews, marks) that differ or are missing, drops records that the store does not
have, and then fetches missing files that marks name. A fetched file that differs from its mark counts as missing, and
is made again.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import orjson

from synthgen.base.file_lists import LIST_SUFFIX, Entry, read_entries
from synthgen.base.files import atomic, make_read_only, sha256
from synthgen.base.locks import is_locked
from synthgen.base.sealed import SEAL, sha256_json
from synthgen.errors import RunError
from synthgen.store.lease import FileSlot
from synthgen.store.objects import Objects, ObjectSlot, is_inside
from synthgen.store.paths import COMMITS, REVIEWS, Paths, is_export_mark, is_image, is_record, shard_of

Entries = Mapping[str, Entry]  # name in the run folder -> [size in bytes, sha256]


class Mirror:
    """A run folder on this machine, and the one in a store that it mirrors.

    Attributes:
        root: the folder on this machine.
        url: the folder in the store.
    """

    def __init__(self, root: Path, url: str, identity: str, confirm: Callable[[], None]) -> None:
        self.root, self.url, self._identity, self._confirm = root, url, identity, confirm
        self._stored: dict[str, tuple[int, str]] = {}  # files in the store, as its marks say
        self._images: dict[str, str] = {}  # checksum -> name, for the images among them
        self._mutex = threading.RLock()

    @cached_property
    def objects(self) -> Objects:
        return Objects(self.url, self._confirm)

    def slot(self, name: str) -> ObjectSlot:
        """The object in the store that names the process at work there."""
        return ObjectSlot(self.objects, name, f"{self._identity}-{FileSlot(self.root / name).reach}")

    def has(self, name: str, size: int) -> bool:
        """Whether the store has a file of this size. It need not be on this machine."""
        return self._stored.get(name, (-1, ""))[0] == size

    # From the store

    def sync(
        self, shards: Collection[int] | None, files: bool, drop: bool, unless: Callable[[], bool] = lambda: False
    ) -> None:
        """Brings the folder in line with the store. Does not fetch files that exist here.

        Args:
            shards: the shards whose files are fetched; None: all.
            files: whether to fetch files in subfolders, such as images and tables. Files beside the spec always are.
            drop: whether to remove the records of these shards that the store does not have. Pass False while others
                may be about to put them.
            unless: called once no other process of this machine syncs the folder. If it returns True, nothing is done.

        Raises:
            RunError: the store refuses, or cannot be reached.
        """
        with self._exclusive():
            if unless():
                return
            every = files and shards is None
            listing = self.objects.below() if every else {**self.objects.below(COMMITS), **self.objects.beside()}

            def still_stored(entries: Entries) -> Entries:
                """The entries that nobody has removed, as far as the listing tells."""
                return {n: e for n, e in entries.items() if not every or (n in listing and listing[n]["size"] == e[0])}

            records = {name: info for name, info in listing.items() if is_record(name)}
            if drop:
                for name in Paths(self.root).records() - records.keys():
                    if shards is None or shard_of(name) in shards:
                        (self.root / name).unlink(missing_ok=True)
            for name, data in self.objects.read(n for n, info in records.items() if not self._is_same(n, info)).items():
                self._replace(name, data)
            to_fetch: list[str] = []
            self._stored, self._images = {}, {}
            for name in records:
                named = still_stored(_named(self.root / name))
                self._note(named)
                self.fetch(n for n in named if n.endswith(LIST_SUFFIX))
                entries = still_stored(_with_listed(named, lambda n: self.root / n))
                self._note(entries)
                if shards is None or shard_of(name) in shards:
                    to_fetch += [n for n in entries if files or "/" not in n]
            self.fetch(to_fetch)

    def _is_same(self, name: str, info: Mapping[str, Any]) -> bool:
        """Whether a record here equals the store's, by the listing. The ETag of an object is mostly its MD5 (Amazon S3
        API, `Object`); if it is something else, the record is fetched."""
        try:
            data = (self.root / name).read_bytes()
        except OSError:
            return False
        return str(info.get("ETag")).strip('"') == hashlib.md5(data, usedforsecurity=False).hexdigest()

    def _replace(self, name: str, data: bytes) -> None:
        """Replaces our record with the store's."""
        path = self.root / name
        if name == REVIEWS and is_locked(path):
            return  # a reviewer of this machine is writing to it
        before, after, was_done = _named(path, done=False), _named(data, done=False), bool(_named(path))
        lists = self.objects.read(n for n in after if n.endswith(LIST_SUFFIX) and before.get(n) != after[n])
        earlier = _with_listed(before, lambda n: self.root / n)
        now = _with_listed(after, lambda n: lists.get(n, self.root / n))
        if is_export_mark(name):
            for file in earlier.keys() - now.keys():
                (self.root / file).unlink(missing_ok=True)
        # This comes before the mark: otherwise a file that was made earlier would pass for the one that the mark names.
        for file, entry in now.items():
            old = self.root / file
            if not (was_done and entry == earlier.get(file)) and _size(old) == entry[0] and sha256(old) != entry[1]:
                old.unlink()
        for record, content in (*lists.items(), (name, data)):
            with atomic(self.root / record) as opened:
                opened.write(content)

    def fetch(self, names: Iterable[str]) -> None:
        """Fetches those of these files that only the store has, many at once."""
        with self._mutex:
            missing = {n: e for n in names if (e := self._stored.get(n)) and _size(self.root / n) != e[0]}
            images = {n: e for n, e in missing.items() if is_image(n)}
            self._get(images)
            # An export's images are links to the run's.
            others = {n: e for n, e in missing.items() if n not in images}
            self._get({n: e for n, e in others.items() if not self._link(self._image(e), n)})

    def _get(self, entries: Entries) -> None:
        new = {name: (p := self.root / name).with_name(f".{p.name}.{os.getpid()}.tmp") for name in entries}
        try:
            self.objects.get(new)
            for name, temporary in new.items():
                if (_size(temporary), sha256(temporary)) != entries[name]:
                    self._stored.pop(name)  # the object is damaged
                    continue
                if is_image(name):
                    make_read_only(temporary)
                temporary.replace(self.root / name)
        except FileNotFoundError as error:
            raise RunError(f"{self.url} has changed while it was read; run the same command again") from error
        finally:
            for temporary in new.values():
                temporary.unlink(missing_ok=True)

    def _link(self, source: str | None, name: str) -> bool:
        """Makes a file a hard link to another one. False if that is not possible."""
        path = self.root / name
        if source is None or not (self.root / source).is_file():
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.unlink(missing_ok=True)
            path.hardlink_to(self.root / source)
        except OSError:
            return False
        return True

    # To the store

    def put(self, entries: Entries) -> None:
        """Puts those of these files that the store does not have, many at once. A file that equals an image of the run
        is copied within the store."""
        with self._mutex:
            new = {n: e for n, e in entries.items() if self._stored.get(n) != e}
            for name in new:
                self._stored.pop(name, None)
            sources = {n: image for n, e in new.items() if (image := self._image(e))}
            try:
                self.objects.copy(sources)
            except FileNotFoundError:  # somebody has removed an image from the store
                sources = {}
            self.put_records(n for n in new if n not in sources)
            self._note(new)

    def put_records(self, names: Iterable[str]) -> None:
        """Puts files, whether or not the store has them."""
        self.objects.put({name: self.root / name for name in names})

    def remove(self, names: Iterable[str]) -> None:
        """Removes files from the store."""
        names = list(names)
        self.objects.remove(names)
        with self._mutex:
            for name in names:
                self._stored.pop(name, None)

    def _note(self, entries: Entries) -> None:
        """Remembers that the store has these files."""
        self._stored |= entries
        self._images |= {e[1]: n for n, e in entries.items() if is_image(n)}

    def _image(self, entry: tuple[int, str]) -> str | None:
        """The image in the store with this size and checksum."""
        name = self._images.get(entry[1])
        return name if name and self._stored.get(name) == entry else None

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Keeps other processes of this machine from syncing the folder at the same time."""
        self.root.mkdir(parents=True, exist_ok=True)
        with self._mutex, open(self.root.with_name(f".{self.root.name}.lock"), "ab") as file:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _named(mark: Path | bytes, done: bool = True) -> dict[str, Entry]:
    """The files that a mark names. Empty if the record is not a mark or is damaged. With `done`, also empty for the
    mark of an export that is withdrawn."""
    try:
        content = orjson.loads(mark.read_bytes() if isinstance(mark, Path) else mark)
        if content.pop(SEAL) != sha256_json(content) or (done and not content["inputs"]):
            return {}
        return {str(n): (int(s), str(c)) for n, (s, c) in content["files"].items() if is_inside(n)}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def _with_listed(named: Entries, lists: Callable[[str], Path | bytes]) -> dict[str, Entry]:
    """These files, and the files named in those of them that are lists."""
    on_lists = (entry for name in named if name.endswith(LIST_SUFFIX) for entry in read_entries(lists(name)))
    return {**named, **{name: entry for name, entry in on_lists if is_inside(name)}}


def _size(path: Path) -> int:
    """The size of a file in bytes; -1 if it does not exist."""
    try:
        return path.stat().st_size
    except OSError:
        return -1
