"""A file of COCO's form for one split, written as it grows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from shutil import copyfileobj
from typing import IO, Any

import orjson

from synthgen.types import Annotation, Category, DatasetInfo, Record

_NO_HASH = "0" * 64  # holds the place of the dataset's content hash, which is known when all records are read


class SplitFile:
    """One record a line, in ASCII. All images come before the first annotation, so annotations go to a scratch file
    first.

    Args:
        categories: the entries of the classes; None if they are known only at the end.
    """

    def __init__(
        self, info: DatasetInfo, categories: Iterable[Mapping[str, Any]] | None, file: IO[bytes], scratch: IO[bytes]
    ) -> None:
        self._file, self._scratch = file, scratch
        self._file.write(head := b'{\n"info": ' + _line(_info(info)) + b",\n")
        self._hash_at = head.rindex(_NO_HASH.encode())
        self._write("licenses", _licenses(info), b",\n")
        if categories is not None:
            self._write("categories", categories, b",\n")
        self.images = _Lines(self._file, "images")
        self.annotations = _Lines(self._scratch, "annotations")

    def finish(self, content_hash: str, categories: Iterable[Mapping[str, Any]] | None = None) -> None:
        """`categories`: the entries of the classes, if they were not known before."""
        self.images.end(b",\n")
        self.annotations.end(b"\n}\n" if categories is None else b",\n")
        self._scratch.seek(0)
        copyfileobj(self._scratch, self._file)
        if categories is not None:
            self._write("categories", categories, b"\n}\n")
        self._file.seek(self._hash_at)
        self._file.write(content_hash.encode())

    def _write(self, key: str, records: Iterable[Mapping[str, Any]], mark: bytes) -> None:
        lines = _Lines(self._file, key)
        lines.extend(records)
        lines.end(mark)


class _Lines:
    """A list under a key, written one record a line as it grows."""

    def __init__(self, file: IO[bytes], key: str) -> None:
        self._file, self._before = file, b"\n"
        file.write(b'"' + key.encode() + b'": [')

    def extend(self, records: Iterable[Mapping[str, Any]]) -> None:
        lines = [_line(record) for record in records]
        if lines:
            self._file.write(self._before + b",\n".join(lines))
            self._before = b",\n"

    def end(self, mark: bytes) -> None:
        self._file.write(b"\n]" + mark)


def image_entry(record: Record, file_name: str) -> dict[str, Any]:
    job = record.job
    return {"id": job.id, "file_name": file_name, "height": job.height, "width": job.width}


def label_entry(record: Record, annotation: Annotation, ids: Mapping[int, int]) -> dict[str, Any]:
    """`ids`: the id of each class in the export."""
    return {
        "id": annotation.id,
        "image_id": record.job.id,
        "category_id": ids[annotation.category_id],
        "bbox": [*annotation.bbox_xywh],
        "area": annotation.area,
    }


def category_entry(category: Category) -> dict[str, Any]:
    return {"id": category.exported_id, "name": category.name, "supercategory": category.supercategory}


def rounded(value: float) -> float:
    """6 significant digits, as many as float32 holds."""
    return float(f"{value:.6g}")


def all_rounded(values: Mapping[str, float]) -> dict[str, float]:
    """Integers, such as hashes, stay as they are."""
    return {name: value if isinstance(value, int) else rounded(value) for name, value in values.items()}


def _info(info: DatasetInfo) -> dict[str, str]:
    subset = {"subset": info.subset} if info.subset else {}
    said = {"description": info.description or info.name, "version": "1.0", "contributor": "synthgen"}
    return {**said, **subset, "content_hash": _NO_HASH}


def _licenses(info: DatasetInfo) -> Iterator[dict[str, Any]]:
    for number, (name, url) in enumerate(info.licences, 1):
        yield {"id": number, "name": name, "url": url}


def _line(record: Mapping[str, Any]) -> bytes:
    line = orjson.dumps(record)
    # pycocotools opens files in the encoding of the locale, which may be another than UTF-8.
    return line if line.isascii() else json.dumps(orjson.loads(line), separators=(",", ":")).encode("ascii")
