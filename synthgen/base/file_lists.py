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

LIST_SUFFIX = ".files"  # how the names of lists end
Entry = tuple[int, str]  # what a file holds: size in bytes, sha256


def format_entry(name: str, entry: Entry) -> bytes:
    """A line of a list; the name has no line break in it."""
    return f"{entry[1]} {entry[0]} {name}\n".encode(errors="surrogateescape")


def read_entries(file: Path | bytes) -> Iterator[tuple[str, Entry]]:
    """The lines of a list, or of what is in one: one at a time, but for those that are no such lines. None if it is not
    there."""
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
    """A set of many names, each in eight bytes: a hash of 64 bits. Among a hundred thousand names, the chance that two
    have one hash is below 1e-9."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._hashes, self._is_sorted = array("q", map(hash, names)), False

    def add(self, name: str) -> None:
        self._hashes.append(hash(name))
        self._is_sorted = False

    def __len__(self) -> int:
        """How many were added, repeats included."""
        return len(self._hashes)

    def __contains__(self, name: str) -> bool:
        self._sort()
        place = bisect_left(self._hashes, wanted := hash(name))
        return place < len(self._hashes) and self._hashes[place] == wanted

    def has_repeats(self) -> bool:
        self._sort()
        return any(map(eq, self._hashes, islice(self._hashes, 1, None)))

    def _sort(self) -> None:
        if not self._is_sorted:
            import numpy as np  # not at the top: commands that read no run import this module too

            self._hashes, self._is_sorted = array("q", np.sort(self._hashes).tobytes()), True
