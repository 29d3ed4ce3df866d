"""Long lists of files, each with its size and checksum, written and read a line at a time."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from itertools import islice
from operator import eq
from pathlib import Path
from typing import IO

from synthgen.base.files import naming_errors

LIST_SUFFIX = ".files"  # the ending of the names of lists
Entry = tuple[int, str]  # a file's size in bytes, and its sha256 in hex


def format_entry(name: str, entry: Entry) -> bytes:
    """The line of a list for one file; `name` has no line break in it."""
    return f"{entry[1]} {entry[0]} {name}\n".encode(errors="surrogateescape")


def read_entries(file: Path | bytes) -> Iterator[tuple[str, Entry]]:
    """Yields the entries of a list, which is a file or its content, a line at a time.

    Leaves out lines that `format_entry` does not write. Yields nothing if there is no such file.
    """
    with suppress(FileNotFoundError), BytesIO(file) if isinstance(file, bytes) else _lines(file) as lines:
        for line in lines:
            checksum, _, rest = line.decode(errors="surrogateescape").partition(" ")
            size, _, name = rest.partition(" ")
            if size.isascii() and size.isdecimal() and len(size) < 19 and name.endswith("\n") and "\0" not in name:
                yield name[:-1], (int(size), checksum)


@contextmanager
def _lines(path: Path) -> Iterator[IO[bytes]]:
    with naming_errors(path), open(path, "rb") as lines:
        yield lines


class NameSet:
    """A set of many names that keeps a hash of 64 bits for each. Among a hundred thousand names, the chance that two
    share a hash is below 1e-9."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._hashes, self._is_sorted = array("q", map(hash, names)), False

    def add(self, name: str) -> None:
        self._hashes.append(hash(name))
        self._is_sorted = False

    def __len__(self) -> int:
        """The number of names added, repeats included."""
        return len(self._hashes)

    def __contains__(self, name: str) -> bool:
        self._sort()
        index = bisect_left(self._hashes, wanted := hash(name))
        return index < len(self._hashes) and self._hashes[index] == wanted

    def has_repeats(self) -> bool:
        """Whether a name was added twice."""
        self._sort()
        return any(map(eq, self._hashes, islice(self._hashes, 1, None)))

    def _sort(self) -> None:
        if not self._is_sorted:
            import numpy as np  # here, because commands that read no run import this module too

            self._hashes, self._is_sorted = array("q", np.sort(self._hashes).tobytes()), True
