"""XML, written and read an element at a time."""

import io
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest

from synthgen.base import xml_stream
from synthgen.base.xml_stream import NO_XML, children_of, escaped

HOSTILE = "a \"b\" <c/> & 'd' ]]> \n\t\r\u2028 é 日 😀"


def read(text: str | bytes) -> list[xml_stream.Element]:
    return list(children_of(io.BytesIO(text if isinstance(text, bytes) else text.encode()), "a"))


def test_children_are_whole() -> None:
    first, second = read('<?xml version="1.0"?>\n<a>\n<b x="1">one<c>two</c>three<d><e> four </e></d></b>\n<b/></a>')
    assert (first.tag, first.attributes, first.line, first.text) == ("b", {"x": "1"}, 3, "onethree")
    assert [child.tag for child in first.children] == ["c", "d"]
    assert first.text_at("c") == "two" and first.text_at("d", "e") == "four"
    assert first.text_at("d", "f") == "" and first.find("e") is None
    assert (second.line, second.children, second.text) == (4, [], "")


def test_escaped_text_comes_back() -> None:
    (element,) = read(f'<a><b x="{escaped(HOSTILE)}">{escaped(HOSTILE)}</b></a>')
    assert element.text == element.attributes["x"] == HOSTILE
    assert not NO_XML.search(HOSTILE)


@pytest.mark.parametrize("character", ["\0", "\x0b", "\ud800", "\ufffe", "\uffff"])
def test_characters_that_xml_lacks_are_replaced(character: str) -> None:
    assert NO_XML.search(character)
    assert read(f"<a><b>{escaped(f'x{character}y')}</b></a>")[0].text == "x\ufffdy"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "iso-8859-1"])
def test_encodings(encoding: str) -> None:
    declared = "utf-8" if encoding == "utf-8-sig" else encoding
    assert read(f'<?xml version="1.0" encoding="{declared}"?><a><b>é</b></a>'.encode(encoding))[0].text == "é"


BOMB = '<!DOCTYPE a [<!ENTITY x "y"><!ENTITY z "&x;&x;&x;">]><a><b>&z;</b></a>'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BOMB, "it has a DOCTYPE"),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>', "it has a DOCTYPE"),
        ("<a><b>&x;</b></a>", "it is no XML: undefined entity in line 1"),
        ("<b/>", "its root is <b>, expected <a>"),
        ("", "it is no XML: no element found"),
        ("<a>\n<b>", "it is no XML: no element found in line 2"),
        ("<a/>x", "it is no XML: junk after document element"),
        ('<a x="1" x="2"/>', "it is no XML: duplicate attribute"),
        ("<a>" + "<b>" * 70 + "</b>" * 70 + "</a>", "elements in line 1 are nested too deep"),
        (b"<a>\xff</a>", "it is no XML: not well-formed"),
    ],
)
def test_what_is_refused(text: str | bytes, words: str) -> None:
    with pytest.raises(ValueError, match="^" + words.replace("(", r"\(")):
        read(text)


class Endless(io.RawIOBase):
    """The bytes of a file that goes on and on."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self.given = pieces, 0

    def read(self, size: int = -1) -> bytes:
        piece = next(self._pieces, b"")
        self.given += len(piece)
        return piece


def endless(begin: bytes, more: bytes) -> Iterator[bytes]:
    yield begin
    while True:
        yield more * (2**12 // len(more))


@pytest.mark.parametrize(
    ("begin", "more", "words"),
    [
        (b'<a><b x="', b"x", "is longer than"),
        (b"<a><b>", b"x", "is longer than"),
        (b"<a><b>", b"<c/>", "holds more than 500 others"),
        (b"<a", b" ", "is longer than"),
    ],
)
def test_memory_holds_a_bounded_element(begin: bytes, more: bytes, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xml_stream, "LONGEST_ELEMENT", 2**16)
    monkeypatch.setattr(xml_stream, "MAX_ELEMENTS", 500)
    file: Any = Endless(endless(begin, more))
    with pytest.raises(ValueError, match=words):
        list(children_of(file, "a"))
    assert file.given < 2**18


def test_a_long_file_is_read_in_little_memory() -> None:
    def pieces() -> Iterator[bytes]:
        yield b"<a>"
        for _ in range(40):
            yield b"<b><c/></b>" * 500
        yield b"</a>"

    file: Any = Endless(pieces())
    tracemalloc.start()
    try:
        assert sum(1 for _ in children_of(file, "a")) == 20_000
        assert tracemalloc.get_traced_memory()[1] < 3_000_000
    finally:
        tracemalloc.stop()
