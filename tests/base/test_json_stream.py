"""JSON that is read an item at a time."""

import json
import tracemalloc
from io import BytesIO
from typing import Any

import pytest

from synthgen.base import json_stream
from synthgen.base.json_stream import entries, items

DOCUMENT = {
    "info": {"text": 'a "] , {\\ \n 日本 😀', "list": [1, [2, {}]]},
    "images": [{"id": 1, "name": "x" * 50}, {"id": -2.5e3}, 12345678901234567890, "]", [], None, True],
    "none": [],
    "annotations": [[[["deep"]]], {"images": [7]}],
    "number": 12,
}


def read(data: bytes, *keys: str) -> list[tuple[str, Any]]:
    return list(items(BytesIO(data), keys))


@pytest.mark.parametrize("chunk", [1, 2, 7, 65_536])
@pytest.mark.parametrize("layout", [{}, {"indent": 1}, {"ensure_ascii": False, "separators": (",", ":")}])
def test_any_layout_gives_the_same_items(chunk: int, layout: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "CHUNK_BYTES", chunk)
    data = json.dumps(DOCUMENT, **layout).encode()
    assert read(data, "images") == [("images", item) for item in DOCUMENT["images"]]
    assert read(data, "images", "annotations", "none") == [
        (key, item) for key in ("images", "annotations") for item in DOCUMENT[key]
    ]
    assert read(b" \n" + data + b"\n\n") == []


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "'' stands where '{' belongs"),
        (b"[]", "'\\[' stands where '{' belongs"),
        (b"{}", "it has no 'images'"),
        (b'{"images": 3}', "its 'images' is no list"),
        (b'{"images": {"a": 1}}', "its 'images' is no list"),
        (b'{"images": [], "images": [1]}', "its key 'images' stands in it twice"),
        (b'{"images": []} {}', "it goes on after its end"),
        (b'{"images": [1, 2', "'' stands where ',' belongs"),
        (b'{"images": [1, 2]', "'' stands where ',' belongs"),
        (b'{"images": [1 2]}', "'2' stands where ',' belongs"),
        (b'{"images": [1,]}', "it is no JSON: "),
        (b'{"images": [{"id": 1]}', "it is no JSON: "),
        (b'{"images": [NaN]}', "NaN is no number"),
        (b'{"images": ["\xff"]}', "can't decode byte"),
        (b"{1: []}", "its key '1' stands in it twice or is no text"),
        (b'{"images": [' + b"[" * 100_000, "nested too deep|it is no JSON"),
        (b'{"images": [' + b"9" * 5_000 + b"]}", "digits"),
    ],
)
def test_what_is_no_such_document_is_refused(data: bytes, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        read(data, "images")


def test_an_item_without_an_end_is_not_read_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "LONGEST_ITEM", 100_000)
    endless = BytesIO(b'{"images": ["' + b"x" * 2_000_000)
    with pytest.raises(ValueError, match="an item in it has more than 100,000 characters"):
        list(items(endless, ["images"]))
    assert endless.tell() < 1_000_000


def test_memory_does_not_grow_with_the_document() -> None:
    def peak(count: int) -> int:
        data = BytesIO(b'{"images":[' + b",".join([b'{"id":1,"text":"' + b"x" * 200 + b'"}'] * count) + b"]}")
        tracemalloc.start()
        assert sum(1 for _ in items(data, ["images"])) == count
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    assert peak(20_000) < 1.1 * peak(2_000)


@pytest.mark.parametrize("chunk", [1, 7, 65_536])
@pytest.mark.parametrize("layout", [{}, {"indent": 1}])
def test_entries_of_a_list(chunk: int, layout: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "CHUNK_BYTES", chunk)
    listed = [DOCUMENT, [], "]", 1.5, None]
    assert list(entries(BytesIO(json.dumps(listed, **layout).encode()))) == listed
    assert list(entries(BytesIO(b" [ ] "))) == []


@pytest.mark.parametrize("text", ["{}", "", "[1", "[1,]", "[1] 2", "[NaN]", "[1 2]", '"[]"'])
def test_what_is_no_list(text: str) -> None:
    with pytest.raises(ValueError, match=r"^it "):
        list(entries(BytesIO(text.encode())))
