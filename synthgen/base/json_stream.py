"""JSON documents that are too large to hold in memory, read an item at a time."""

from __future__ import annotations

import codecs
import json
from collections.abc import Collection, Iterator
from typing import IO, Any, NoReturn

CHUNK_BYTES = 65_536
LONGEST_ITEM = 2**25  # characters


def items(file: IO[bytes], keys: Collection[str]) -> Iterator[tuple[str, Any]]:
    """Yields the items of the lists under `keys` of a JSON object, each with its key, in the order of the file.

    The layout of the file does not matter. Memory holds one item, of at most `LONGEST_ITEM` characters. If the caller
    stops early, the rest of the document is neither read nor checked.

    Raises:
        ValueError: the file is no JSON object, has a key twice, or one of `keys` is missing or holds no list.
    """
    reader = _Reader(file)
    seen = set[str]()
    reader.take("{")
    while reader.peek() != "}":
        if seen:
            reader.take(",")
        key = reader.value()
        if not isinstance(key, str) or key in seen:
            raise ValueError(f"its key {str(key)[:80]!r} stands in it twice or is no text")
        seen.add(key)
        reader.take(":")
        if reader.peek() == "[":
            for item in reader.list():
                if key in keys:
                    yield key, item
        elif key in keys:
            raise ValueError(f"its {key!r} is no list")
        else:
            reader.value()
    reader.take("}")
    if reader.peek():
        raise ValueError("it goes on after its end")
    if missing := [key for key in keys if key not in seen]:
        raise ValueError(f"it has no {missing[0]!r}")


def entries(file: IO[bytes]) -> Iterator[Any]:
    """Yields the entries of a JSON list. Memory holds one, as in `items`.

    Raises:
        ValueError: the file is no JSON list.
    """
    reader = _Reader(file)
    yield from reader.list()
    if reader.peek():
        raise ValueError("it goes on after its end")


class _Reader:
    """A window of a text: `_text[_at:]` has been read from the file and not yet been taken."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._text, self._at, self._at_end = file, "", 0, False
        self._decode = codecs.getincrementaldecoder("utf-8")().decode
        self._parse = json.JSONDecoder(parse_constant=_refuse_constant).raw_decode

    def _read_on(self) -> None:
        """Doubles the text that is not yet taken, so that even a long item is parsed only a few times."""
        rest = self._text[self._at :]
        if len(rest) > LONGEST_ITEM:
            raise ValueError(f"it is no JSON, or an item in it has more than {LONGEST_ITEM:,} characters")
        data = self._file.read(max(CHUNK_BYTES, len(rest)))
        self._text, self._at, self._at_end = rest + self._decode(data, not data), 0, not data

    def peek(self) -> str:
        """The next character that is no white space; "" at the end of the file."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in " \t\r\n":
                self._at += 1
            if self._at < len(self._text) or self._at_end:
                return self._text[self._at : self._at + 1]
            self._read_on()

    def take(self, character: str) -> None:
        if (actual := self.peek()) != character:
            raise ValueError(f"it is no JSON: {actual!r} stands where {character!r} belongs")
        self._at += 1

    def value(self) -> Any:
        """The value that begins at the next character that is no white space."""
        self.peek()
        while True:
            try:
                value, end = self._parse(self._text, self._at)
                if end < len(self._text) or self._at_end:  # a number may go on in text that is not read yet
                    self._at = end
                    return value
            except json.JSONDecodeError as error:  # The value may go on in text that is not read yet.
                if self._at_end:
                    raise ValueError(f"it is no JSON: {error.msg}") from error
            except RecursionError as error:
                raise ValueError("an item in it is nested too deep") from error
            self._read_on()

    def list(self) -> Iterator[Any]:
        self.take("[")
        if self.peek() != "]":
            yield self.value()
        while self.peek() != "]":
            self.take(",")
            yield self.value()
        self.take("]")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"it is no JSON: {name} is no number")
