"""A run folder on this machine that mirrors one in an object store: `--out s3://bucket/datasets`.

The store is the truth, and only marks decide what is in it. A mark is put after all files that it names, and taken away
before any of them is; a store's put is atomic, so nothing need be renamed. So a process that is killed anywhere leaves
files that no mark names, which the next one overwrites, or marks whose files are all there.

Here everything works on plain files. Before that, the folder is brought in line with the store: records (the spec,
`run.json`, rounds, reviews, marks) that differ or are missing are fetched, those that the store has not got are
dropped, and then files that marks name and that are not here are fetched. What comes and is not what its mark says
counts as not there, and is made anew.
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

from synthgen.base.files import (
    LIST,
    SEAL,
    Entry,
    atomic,
    digest,
    is_locked,
    listed,
    protect,
    sha256,
)
from synthgen.errors import RunError
from synthgen.store.lease import FileSlot
from synthgen.store.objects import Objects, ObjectSlot, is_inside
from synthgen.store.paths import COMMITS, REVIEWS, Paths, is_export_mark, is_image, is_record, shard_of

Entries = Mapping[str, Entry]  # name in the run folder -> [size in bytes, sha256]


class Mirror:
    """A run folder here, and the one in a store that it mirrors.

    Attributes:
        root: the folder here.
        url: the folder in the store.
    """

    def __init__(self, root: Path, url: str, identity: str, confirm: Callable[[], None]) -> None:
        self.root, self.url, self._identity, self._confirm = root, url, identity, confirm
        self._stored: dict[str, tuple[int, str]] = {}  # files in the store, as its marks say
        self._images: dict[str, str] = {}  # checksum -> name, of the images among them
        self._mutex = threading.RLock()

    @cached_property
    def objects(self) -> Objects:
        return Objects(self.url, self._confirm)

    def slot(self, name: str) -> ObjectSlot:
        """An object that names who is at work in the folder in the store."""
        return ObjectSlot(self.objects, name, f"{self._identity}-{FileSlot(self.root / name).reach}")

    def has(self, name: str, size: int) -> bool:
        """Whether the store has a file, which need not be here."""
        return self._stored.get(name, (-1, ""))[0] == size

    # From the store

    def sync(
        self, shards: Collection[int] | None, files: bool, drop: bool, unless: Callable[[], bool] = lambda: False
    ) -> None:
        """Brings the folder in line with the store; what is here already is not fetched again.

        Args:
            shards: whose files are wanted; None: all.
            files: whether files are wanted, besides those that stand beside the spec.
            drop: whether records, of these shards, that the store has not got are dropped: not while others may be
                about to put them.
            unless: asked when no other process of this machine is doing the same; True: does nothing.

        Raises:
            RunError: the store refuses, or cannot be reached.
        """
        with self._alone():
            if unless():
                return
            every = files and shards is None
            listing = self.objects.below() if every else {**self.objects.below(COMMITS), **self.objects.beside()}

            def there(entries: Entries) -> Entries:
                """Of them, those that nobody has removed, as far as the listing tells."""
                return {n: e for n, e in entries.items() if not every or (n in listing and listing[n]["size"] == e[0])}

            records = {name: info for name, info in listing.items() if is_record(name)}
            if drop:
                for name in Paths(self.root).records() - records.keys():
                    if shards is None or shard_of(name) in shards:
                        (self.root / name).unlink(missing_ok=True)
            for name, data in self.objects.read(n for n, info in records.items() if not self._is_same(n, info)).items():
                self._replace(name, data)
            wanted: list[str] = []
            self._stored, self._images = {}, {}
            for name in records:
                named = there(_named(self.root / name))
                self._note(named)
                self.fetch(n for n in named if n.endswith(LIST))
                entries = there(_with_listed(named, lambda n: self.root / n))
                self._note(entries)
                if shards is None or shard_of(name) in shards:
                    wanted += [n for n in entries if files or "/" not in n]
            self.fetch(wanted)

    def _is_same(self, name: str, info: Mapping[str, Any]) -> bool:
        """Whether a record here is the store's, as far as a listing tells: an object's ETag is mostly its MD5 (Amazon
        S3 API, `Object`), and where it is another thing the record is fetched."""
        try:
            data = (self.root / name).read_bytes()
        except OSError:
            return False
        return str(info.get("ETag")).strip('"') == hashlib.md5(data, usedforsecurity=False).hexdigest()

    def _replace(self, name: str, data: bytes) -> None:
        """Puts the store's record in the place of ours."""
        path = self.root / name
        if name == REVIEWS and is_locked(path):
            return  # a reviewer of this machine is writing to it
        before, after, was_done = _named(path, done=False), _named(data, done=False), bool(_named(path))
        lists = self.objects.read(n for n in after if n.endswith(LIST) and before.get(n) != after[n])
        earlier = _with_listed(before, lambda n: self.root / n)
        now = _with_listed(after, lambda n: lists.get(n, self.root / n))
        if is_export_mark(name):
            for file in earlier.keys() - now.keys():
                (self.root / file).unlink(missing_ok=True)
        # Before the mark is here: else a file of an earlier making would pass for what the mark names.
        for file, entry in now.items():
            old = self.root / file
            if not (was_done and entry == earlier.get(file)) and _size(old) == entry[0] and sha256(old) != entry[1]:
                old.unlink()
        for record, content in (*lists.items(), (name, data)):
            with atomic(self.root / record) as opened:
                opened.write(content)

    def fetch(self, names: Iterable[str]) -> None:
        """Fetches those of these files that the store has and that are not here, many at once."""
        with self._mutex:
            missing = {n: e for n in names if (e := self._stored.get(n)) and _size(self.root / n) != e[0]}
            images = {n: e for n, e in missing.items() if is_image(n)}
            self._get(images)
            # An export's images are links to the run's.
            others = {n: e for n, e in missing.items() if n not in images}
            self._get({n: e for n, e in others.items() if not self._is_linked(self._image(e), n)})

    def _get(self, entries: Entries) -> None:
        new = {name: (p := self.root / name).with_name(f".{p.name}.{os.getpid()}.tmp") for name in entries}
        try:
            self.objects.get(new)
            for name, temporary in new.items():
                if (_size(temporary), sha256(temporary)) != entries[name]:
                    self._stored.pop(name)  # damaged there
                    continue
                if is_image(name):
                    protect(temporary)
                temporary.replace(self.root / name)
        except FileNotFoundError as error:
            raise RunError(f"{self.url} has changed while it was read; run the same command again") from error
        finally:
            for temporary in new.values():
                temporary.unlink(missing_ok=True)

    def _is_linked(self, source: str | None, name: str) -> bool:
        """Whether a file is a link to another one here now."""
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
        """Puts those of these files that the store has not got, many at once; what it has as an image of the run is
        copied there."""
        with self._mutex:
            new = {n: e for n, e in entries.items() if self._stored.get(n) != e}
            for name in new:
                self._stored.pop(name, None)
            sources = {n: image for n, e in new.items() if (image := self._image(e))}
            try:
                self.objects.copy(sources)
            except FileNotFoundError:  # removed by hand
                sources = {}
            self.put_records(n for n in new if n not in sources)
            self._note(new)

    def put_records(self, names: Iterable[str]) -> None:
        """Puts files, whatever the store has."""
        self.objects.put({name: self.root / name for name in names})

    def remove(self, names: Iterable[str]) -> None:
        """Removes files from the store."""
        names = list(names)
        self.objects.remove(names)
        with self._mutex:
            for name in names:
                self._stored.pop(name, None)

    def _note(self, entries: Entries) -> None:
        """That the store has files."""
        self._stored |= entries
        self._images |= {e[1]: n for n, e in entries.items() if is_image(n)}

    def _image(self, entry: tuple[int, str]) -> str | None:
        """The image in the store that is of this size and checksum."""
        name = self._images.get(entry[1])
        return name if name and self._stored.get(name) == entry else None

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keeps other processes of this machine from bringing the folder in line at the same time."""
        self.root.mkdir(parents=True, exist_ok=True)
        with self._mutex, open(self.root.with_name(f".{self.root.name}.lock"), "ab") as file:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _named(mark: Path | bytes, done: bool = True) -> dict[str, Entry]:
    """The files that a mark names; none if it is none, is damaged or, with `done`, is of an export that is to be made
    anew."""
    try:
        content = orjson.loads(mark.read_bytes() if isinstance(mark, Path) else mark)
        if content.pop(SEAL) != digest(content) or (done and not content["inputs"]):
            return {}
        return {str(n): (int(s), str(c)) for n, (s, c) in content["files"].items() if is_inside(n)}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def _with_listed(named: Entries, lists: Callable[[str], Path | bytes]) -> dict[str, Entry]:
    """They, and the files on the lists among them."""
    on_lists = (entry for name in named if name.endswith(LIST) for entry in listed(lists(name)))
    return {**named, **{name: entry for name, entry in on_lists if is_inside(name)}}


def _size(path: Path) -> int:
    """-1 if it is not there."""
    try:
        return path.stat().st_size
    except OSError:
        return -1
