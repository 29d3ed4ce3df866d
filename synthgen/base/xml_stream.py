"""XML too large for memory: written as text, and read an element at a time, whoever has written it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Any, NoReturn
from xml.parsers import expat

CHUNK_BYTES = 2**18
LONGEST_ELEMENT = 2**24  # bytes of a child of the root, with all that is in it
MAX_ELEMENTS = 200_000  # in such a child
MAX_DEPTH = 64
# What no XML 1.0 document may contain, not even as a reference: https://www.w3.org/TR/xml/#charsets
NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_SPECIAL = re.compile('[&<>"\t\n\r]|[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]')
_NAMED = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"}


def escaped(text: str) -> str:
    """Text for an element, or for an attribute in double quotes. Parsers give it back as it is; a character that XML
    does not have becomes U+FFFD."""
    return _SPECIAL.sub(_reference, text)


def _reference(match: re.Match[str]) -> str:
    character = match[0]
    return _NAMED.get(character) or (f"&#{ord(character)};" if character in "\t\n\r" else "\ufffd")


@dataclass(slots=True)
class Element:
    """An element with all that is in it. `line`: where it begins in its file."""

    tag: str
    attributes: dict[str, str]
    line: int
    text: str = ""
    children: list[Element] = field(default_factory=list)

    def find(self, *path: str) -> Element | None:
        """The first element below this one on a path of tags."""
        for child in self.children if path else ():
            if child.tag == path[0] and (found := child.find(*path[1:]) if path[1:] else child) is not None:
                return found
        return None

    def text_at(self, *path: str) -> str:
        """The text of the first element on a path of tags, without space around it; "" if there is none."""
        found = self.find(*path)
        return found.text.strip() if found else ""


def children_of(file: IO[bytes], root: str) -> Iterator[Element]:
    """Yields the elements right below the root, each whole. Memory holds one, of at most `LONGEST_ELEMENT` bytes.

    A document with a DOCTYPE is refused, so no entity is ever expanded and nothing outside the file is read.

    Raises:
        ValueError: the file is no such XML, or its root has another tag.
    """
    reader = _Reader(root)
    while data := file.read(CHUNK_BYTES):
        yield from reader.feed(data)
    yield from reader.feed(b"", is_final=True)


class _Reader:
    def __init__(self, root: str) -> None:
        self._root, self._done = root, list[Element]()
        self._open = list[tuple[Element, list[str]]]()  # from the root inwards, each with the pieces of its text
        self._begins = self._fed = self._elements = 0  # of the open child of the root: where it begins; bytes, elements
        self._parser: Any = expat.ParserCreate()
        self._parser.buffer_text = True
        self._parser.StartDoctypeDeclHandler = _refuse_doctype
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._characters

    def feed(self, data: bytes, *, is_final: bool = False) -> list[Element]:
        """The children of the root that end in this data."""
        self._fed += len(data)
        try:
            self._parser.Parse(data, is_final)
        except expat.ExpatError as error:
            raise ValueError(f"it is no XML: {expat.ErrorString(error.code)} in line {error.lineno}") from error
        if len(self._open) < 2:
            self._begins = self._parser.CurrentByteIndex
        if self._fed - self._begins > LONGEST_ELEMENT:
            raise ValueError(f"an element in line {self._parser.CurrentLineNumber} is longer than 16 MiB")
        done, self._done = self._done, []
        return done

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        line = self._parser.CurrentLineNumber
        if not self._open and tag != self._root:
            raise ValueError(f"its root is <{tag[:80]}>, expected <{self._root}>")
        if len(self._open) >= MAX_DEPTH:
            raise ValueError(f"elements in line {line} are nested too deep")
        element = Element(tag, attributes, line)
        if len(self._open) == 1:
            self._begins, self._elements = self._parser.CurrentByteIndex, 0
        elif self._open:
            self._open[-1][0].children.append(element)
            self._elements += 1
            if self._elements > MAX_ELEMENTS:
                raise ValueError(f"an element in line {line} holds more than {MAX_ELEMENTS:,} others")
        self._open.append((element, []))

    def _end(self, _tag: str) -> None:
        element, pieces = self._open.pop()
        element.text = "".join(pieces)
        if len(self._open) == 1:
            self._done.append(element)

    def _characters(self, text: str) -> None:
        if len(self._open) > 1:
            self._open[-1][1].append(text)


def _refuse_doctype(*_: Any) -> NoReturn:
    raise ValueError("it has a DOCTYPE, and so may name entities, which are not read")
