"""A folder in an object store, by fsspec. Requests are for many objects at once, and are repeated while the store does
not answer. One object names the process that is at work there."""

from __future__ import annotations

import errno
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from synthgen.base.interrupts import raise_if_stopped
from synthgen.base.wording import one_line, plain
from synthgen.errors import OutOfRoom, RunError, nearest

T = TypeVar("T")

RETRY_SECONDS = 120.0  # how long requests to a store that does not answer are repeated
FIRST_SECONDS = 10.0  # the same for a store that has never answered: its URL may be wrong
SETTLE_SECONDS = 2.0  # after this time, two hosts that take over a folder at the same moment have both written
AT_ONCE = 1000  # objects in one request. fsspec itself works on an eighth of the allowed number of open files at a time
# Names of errors of credentials, by botocore and others. Repeating the request does not help.
_REFUSED = re.compile(r"Credential|Auth|Token|ParamValidation|ProfileNotFound")
_CONFLICTS = {"PreconditionFailed", "ConditionalRequestConflict"}  # Amazon S3 API, error responses
# The supported stores: scheme -> the package for it, and what to install. These stores are consistent, and can put an
# object on condition that none of its name exists: s3fs sends If-None-Match, gcsfs ifGenerationMatch (its
# `core.simple_upload`), adlfs no permission to overwrite (its `AzureBlobFileSystem._pipe_file`).
_LOCAL = ("", "")
_S3, _GOOGLE, _AZURE = ("s3fs", "'synthgen[s3]'"), ("gcsfs", "gcsfs"), ("adlfs", "adlfs")
STORES = {
    "s3": _S3, "s3a": _S3, "gs": _GOOGLE, "gcs": _GOOGLE, "az": _AZURE, "abfs": _AZURE, "abfss": _AZURE,
    "file": _LOCAL, "local": _LOCAL,
}  # fmt: skip


def require_store(url: str) -> None:
    """Checks the text of a URL. Asks no store, and imports no package.

    Raises:
        RunError: it is not the URL of a folder, its store is not supported, or the package for it is not installed.
    """
    scheme, _, rest = url.partition("://")
    got = f"got {plain(url)!r}"
    if scheme not in STORES:
        schemes = ", ".join(f"{name}://" for name in STORES)
        near = nearest(scheme, STORES)
        raise RunError(f"{got}; there is no store {plain(scheme)!r}{near}; takes a folder, or a URL of {schemes}")
    package, install = STORES[scheme]
    is_folder = rest.strip("/") and url.isprintable() and "::" not in url and not set("*?[]#") & set(url)
    if not is_folder or rest.startswith("/") == bool(package):  # a bucket, or a whole path
        shape = f"{scheme}://bucket/datasets" if package else f"{scheme}:///disk/datasets"
        raise RunError(f"{got}; takes a folder, or a URL such as {shape}")
    if package and find_spec(package) is None:
        raise RunError(f"{got}; {package} is not installed: pip install {install}")


def file_system(url: str) -> tuple[Any, str]:
    """fsspec's file system for a URL, and the path in it. May log in to the store.

    Raises:
        RunError: as `require_store`; or the store's package cannot be imported, or refuses the URL.
    """
    require_store(url)
    import fsspec

    try:
        # Cached listings would be out of date when others write.
        fs, path = fsspec.url_to_fs(url, use_listings_cache=False)
    except (ImportError, ValueError) as error:
        raise RunError(f"got {plain(url)!r}; {one_line(error, 200)}") from error
    return fs, str(path).rstrip("/")


class Objects:
    """The objects below a URL, by their names there.

    Args:
        confirm: called before a store that did not answer is asked again. It raises RunError if the request no longer
            applies, because another process has taken over the folder.
    """

    def __init__(self, url: str, confirm: Callable[[], None] = lambda: None) -> None:
        self.url, self._confirm, self._answered = url, confirm, False
        self.fs, self._base = file_system(url)

    def path(self, name: str) -> str:
        """The path of an object, as fsspec takes it."""
        return f"{self._base}/{name}".rstrip("/")

    def below(self, name: str = "") -> dict[str, Mapping[str, Any]]:
        """All objects below a name: name -> size and more."""
        listing = self._listed(lambda: self.fs.find(self.path(name), detail=True).values())
        return {n: info for n, info in listing.items() if info["type"] == "file"}

    def beside(self, name: str = "") -> dict[str, Mapping[str, Any]]:
        """The objects and folders directly below a name."""
        return self._listed(lambda: self.fs.ls(self.path(name), detail=True))

    def _listed(self, ask: Callable[[], Iterable[Mapping[str, Any]]]) -> dict[str, Mapping[str, Any]]:
        try:
            listing = self.answer(ask)
        except FileNotFoundError:
            return {}
        names = {info["name"].removeprefix(f"{self._base}/").rstrip("/"): info for info in listing}
        return {name: info for name, info in names.items() if is_inside(name)}

    def read(self, names: Iterable[str]) -> dict[str, bytes]:
        """The content of small objects, without those that do not exist."""
        contents: dict[str, bytes] = {}

        def read(paths: Mapping[str, str]) -> None:
            for path, data in self.fs.cat(list(paths), on_error="return").items():
                if isinstance(data, bytes):
                    contents[paths[path]] = data
                elif not isinstance(data, FileNotFoundError):
                    raise data

        for group in _groups(names):
            paths = {self.path(name): name for name in group}
            self.answer(read, paths)
        return contents

    def get(self, files: Mapping[str, Path]) -> None:
        """Fetches objects. `files`: name of the object -> local file, whose folder is made if needed.

        Raises:
            FileNotFoundError: an object does not exist.
        """
        for folder in {path.parent for path in files.values()}:
            folder.mkdir(parents=True, exist_ok=True)
        for group in _groups(files):
            local, remote = [str(files[name]) for name in group], [self.path(name) for name in group]
            self.answer(self.fs.get, remote, local)

    def put(self, files: Mapping[str, Path]) -> None:
        """Puts objects. `files`: name of the object -> local file."""
        for group in _groups(files):
            local, remote = [str(files[name]) for name in group], [self.path(name) for name in group]
            self._make_folders(remote)
            self.answer(self.fs.put, local, remote)

    def copy(self, sources: Mapping[str, str]) -> None:
        """Copies objects within the store. `sources`: name of the copy -> name of the object that is copied.

        Raises:
            FileNotFoundError: an object that is copied does not exist.
        """
        for group in _groups(sources):
            old, new = [self.path(sources[name]) for name in group], [self.path(name) for name in group]
            self._make_folders(new)
            self.answer(self.fs.copy, old, new)

    def _make_folders(self, paths: Iterable[str]) -> None:
        """Makes the folders of files in a store of files. Stores of objects have no folders."""
        if not self.fs.async_impl:
            for folder in {path.rpartition("/")[0] for path in paths}:
                self.answer(self.fs.makedirs, folder, True)

    def remove(self, names: Iterable[str]) -> None:
        """Removes objects; those that do not exist are ignored."""
        for group in _groups(names):
            paths = [self.path(name) for name in group]
            try:
                self.answer(self.fs.rm, paths)
            except FileNotFoundError:  # some file systems raise it, and others of the group may still exist
                for path in paths:
                    with suppress(FileNotFoundError):
                        self.answer(self.fs.rm_file, path)

    def answer(self, ask: Callable[..., T], *arguments: Any) -> T:
        """Returns the store's answer. Repeats the request for a while if there is none.

        Raises:
            RunError: the store refuses, or does not answer.
            OutOfRoom: its answer does not fit on the disk here.
            FileNotFoundError, FileExistsError: the store's own answer.
        """
        deadline, pause = time.monotonic() + (RETRY_SECONDS if self._answered else FIRST_SECONDS), 1.0
        while True:
            try:
                answer = ask(*arguments)
                self._answered = True
                return answer
            except (FileNotFoundError, FileExistsError, RunError):
                self._answered = True
                raise
            except Exception as error:
                reason = plain(" ".join(f"{type(error).__name__}: {error}".split()), 200)
                is_refusal = isinstance(error, PermissionError | NotImplementedError)
                if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
                    raise OutOfRoom(
                        f"no room left on the disk for what {self.url} holds; free some and run the same command again"
                    ) from error
                if is_refusal or _REFUSED.search(type(error).__name__):
                    raise RunError(f"{self.url} cannot be used: its store refuses ({reason})") from error
                if type(error).__module__ == "builtins" and not isinstance(error, OSError):
                    raise  # a fault of the program, not of the store
                if time.monotonic() + pause > deadline:
                    raise RunError(
                        f"{self.url} cannot be reached ({reason}); what is finished is kept, and the same command goes "
                        "on from there"
                    ) from error
            raise_if_stopped()
            time.sleep(pause)
            self._confirm()
            pause = min(2 * pause, 15.0)

    def create(self, name: str, content: bytes) -> None:
        """Makes an object on condition that none of this name exists.

        Raises:
            FileExistsError: one exists.
        """
        if not self.fs.async_impl:  # a store of files
            self._make_folders([self.path(name)])
            try:
                with self.fs.open(self.path(name), "xb") as file:
                    file.write(content)
            except ValueError as error:
                raise NotImplementedError(str(error)) from error
            return
        try:
            self.fs.pipe_file(self.path(name), content, mode="create")
        except OSError as error:
            # s3fs has no exception of its own for S3's answer that a condition does not hold.
            if getattr(error.__cause__, "response", {}).get("Error", {}).get("Code") in _CONFLICTS:
                raise FileExistsError(name) from error
            raise


class ObjectSlot:
    """An object that names the holder of a folder in a store; see `lease.Slot`. It is made on condition that none
    exists. An object of an ended lease is removed before.

    Args:
        reach: the reach of the lock in the mirror's folder, which excludes other processes of this machine.
    """

    def __init__(self, objects: Objects, name: str, reach: str) -> None:
        self._objects, self._name, self._path = objects, name, objects.path(name)
        self.where, self.reach = objects.url, reach

    def reaches(self, host: str, reach: str) -> bool:
        return reach == self.reach

    def read(self) -> bytes:
        return bytes(self._objects.answer(self._objects.fs.cat_file, self._path))

    def take(self, content: bytes, ended: bytes) -> None:
        objects, taken = self._objects, RunError(f"another process is at work in {self.where}")
        try:
            if ended:
                if self.read() != ended:
                    raise taken
                objects.answer(objects.fs.rm_file, self._path)
            objects.answer(self._create, content)
            with suppress(FileExistsError):
                objects.answer(objects.create, self._name, content)
                raise RunError(f"{self.where} cannot be used: its store ignores the condition of a put")
            if ended and self.reach.encode() not in ended:
                # Another host may have seen the ended lease, too, and may now remove our object instead.
                time.sleep(SETTLE_SECONDS)
                if self.read() != content:
                    raise taken
        except FileExistsError as error:
            raise taken from error
        except FileNotFoundError as error:
            raise RunError(f"{self.where} cannot be used: {plain(str(error), 200)}") from error

    def _create(self, content: bytes) -> None:
        try:
            self._objects.create(self._name, content)
        except FileExistsError:
            if self.read() != content:  # if it is ours, the answer to an earlier request was lost
                raise

    def renew(self, content: bytes) -> bytes:
        current = self._once(self._objects.fs.cat_file, self._path)
        if current == content:
            self._once(self._objects.fs.pipe_file, self._path, content)
        return bytes(current)

    def clear(self, content: bytes) -> None:
        if self._once(self._objects.fs.cat_file, self._path) == content:
            self._once(self._objects.fs.rm_file, self._path)

    def is_there(self) -> bool:
        return True  # a request to the store is not cheap

    def age(self) -> float:
        fs, probe = self._objects.fs, f"{self._path}.{secrets.token_hex(8)}.tmp"

        def both() -> float:
            fs.pipe_file(probe, b"now")
            try:
                return float((fs.modified(probe) - fs.modified(self._path)).total_seconds())
            finally:
                fs.rm_file(probe)

        try:
            return self._objects.answer(both)
        except FileNotFoundError:  # the holder has removed it meanwhile
            return float("inf")

    def _once(self, ask: Callable[..., T], *arguments: Any) -> T:
        """The store's answer to a single request. Raises OSError only, as `lease.Slot` asks for."""
        try:
            return ask(*arguments)
        except OSError:
            raise
        except Exception as error:
            raise OSError(f"{type(error).__name__}: {error}") from error


def is_inside(name: str) -> bool:
    """Whether a name from a store stays inside the folder."""
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\0" not in name


def _groups(names: Iterable[str]) -> Iterator[Sequence[str]]:
    rest = iter(list(names))
    while group := list(islice(rest, AT_ONCE)):
        yield group
