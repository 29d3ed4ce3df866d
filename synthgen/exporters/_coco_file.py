"""A file of COCO's form for one split, written as it grows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from shutil import copyfileobj
from typing import IO, Any

import orjson

from synthgen.exporters._rounding import rounded
from synthgen.types import Annotation, Category, DatasetInfo, Record

AT_ONCE = 300  # records that wait to be written
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
        self._file.write(head := b'{\n"info": ' + _lines([_info(info)]) + b",\n")
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
    """A list under a key, written one record a line as it grows. Some records wait in memory: many are written in one
    go. The numbers that a record has under `scores` are rounded then."""

    def __init__(self, file: IO[bytes], key: str) -> None:
        self._file, self._before = file, b"\n"
        self._waiting: list[Mapping[str, Any]] = []
        file.write(b'"' + key.encode() + b'": [')

    def extend(self, records: Iterable[Mapping[str, Any]]) -> None:
        self._waiting += records
        if len(self._waiting) >= AT_ONCE:
            self._write()

    def end(self, mark: bytes) -> None:
        self._write()
        self._file.write(b"\n]" + mark)

    def _write(self) -> None:
        if self._waiting:
            self._file.write(self._before + _lines([*_with_rounded_scores(self._waiting)]))
            self._before, self._waiting = b",\n", []


def _with_rounded_scores(records: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    values = iter(rounded([value for record in records for value in record.get("scores", {}).values()]))
    for record in records:
        if "scores" in record:
            yield {**record, "scores": {name: next(values) for name in record["scores"]}}
        else:
            yield record


def _lines(records: Sequence[Mapping[str, Any]]) -> bytes:
    """Records as JSON in ASCII, one a line."""
    if "segments_info" in records[0]:  # a panoptic entry has a list of records with ids of its own
        text = b",\n".join(map(orjson.dumps, records))
    else:
        # In a string, a quote has a backslash before it, so these bytes stand between two records alone.
        text = orjson.dumps(records)[1:-1].replace(b'},{"id":', b'},\n{"id":')
    # pycocotools opens files in the encoding of the locale, which may be another than UTF-8.
    return text if text.isascii() else b",\n".join(map(_in_ascii, text.split(b",\n")))


def _in_ascii(line: bytes) -> bytes:
    return json.dumps(orjson.loads(line), separators=(",", ":")).encode("ascii")


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


def _info(info: DatasetInfo) -> dict[str, str]:
    subset = {"subset": info.subset} if info.subset else {}
    said = {"description": info.description or info.name, "version": "1.0", "contributor": "synthgen"}
    return {**said, **subset, "content_hash": _NO_HASH}


def _licenses(info: DatasetInfo) -> Iterator[dict[str, Any]]:
    for number, (name, url) in enumerate(info.licences, 1):
        yield {"id": number, "name": name, "url": url}
