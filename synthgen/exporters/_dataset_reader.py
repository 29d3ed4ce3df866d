"""The rows of a split, read back and compared with the records, in bounded memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from typing import IO, Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from synthgen.backends import ExportedFolder
from synthgen.base.wording import shown
from synthgen.exporters._dataset_rows import difference
from synthgen.exporters._dataset_writers import metadata_line
from synthgen.types import Record

TYPES = b"huggingface"  # the key under which a schema has the types of `datasets`
NOT_EXPORTED = "is not among the exported files"


class SplitReader:
    """Reads the rows of a split in order, until the first difference.

    Args:
        names: of its files.
        schema: of Parquet files; None for a `metadata.jsonl`.
    """

    def __init__(self, folder: ExportedFolder, names: Sequence[str], schema: pa.Schema | None) -> None:
        self._folder, self._schema = folder, schema
        self._has_images = schema is not None and "image" in schema.names
        self._file = names[0]  # which is being read
        self._fault = ""
        self._rows = self._read(names)

    def compare(self, record: Record, expected: Mapping[str, Any], image_file: str, *, is_same: bool) -> None:
        """Compares the next row, and its image.

        Args:
            expected: the row, without `image`.
            image_file: the name of the image, in the row or in the export.
            is_same: whether the image has the bytes of the run's, and was not encoded again.
        """
        if self._fault:
            return
        try:
            if (found := next(self._rows, None)) is None:
                raise ValueError(f"misses image {record.job.id}")
            if self._has_images:
                image = found.pop("image") or {}
                require_equal({**found, "image": image.get("path")}, {**expected, "image": image_file}, record)
                require_image(image.get("bytes") or b"", record, is_same=is_same)
                return
            if self._schema is None:
                require_line(found, metadata_line(expected), record)
            else:
                require_equal(found, expected, record)
            if not self._folder.has(image_file):
                raise ValueError(f"has image {record.job.id}, whose file {image_file} {NOT_EXPORTED}")
        except ValueError as error:
            self._fault = str(error)

    def finish(self) -> tuple[str, str] | None:
        """The file that differs and how, or None."""
        try:
            if not self._fault and next(self._rows, None) is not None:
                self._fault = "has more rows than there are images"
        except ValueError as error:
            self._fault = str(error)
        return (self._file, self._fault) if self._fault else None

    def _read(self, names: Sequence[str]) -> Iterator[Any]:
        for self._file in names:
            if not self._folder.has(self._file):
                raise ValueError(NOT_EXPORTED)
            with self._folder.open(self._file) as file:
                yield from file if self._schema is None else _rows(file, self._schema)


def _rows(file: IO[bytes], schema: pa.Schema) -> Iterator[dict[str, Any]]:
    """
    Raises:
        ValueError: it is no Parquet file, or has another schema.
    """
    try:
        with pq.ParquetFile(file) as found:
            if (found.schema_arrow.metadata or {}).get(TYPES) != schema.metadata[TYPES]:
                raise ValueError("has other columns or types than an export of these records")
            for group in range(found.num_row_groups):
                yield from found.read_row_group(group, use_threads=False).to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"cannot be read: {error}") from error


def require_line(found: bytes, expected: bytes, record: Record) -> None:
    """
    Raises:
        ValueError: two lines of JSON differ.
    """
    if found != expected:
        try:
            row = orjson.loads(found)
        except ValueError as error:
            raise ValueError(f"image {record.job.id}: its line is no JSON: {error}") from error
        require_equal(row, orjson.loads(expected), record)


def require_equal(found: Any, expected: Mapping[str, Any], record: Record) -> None:
    if wrong := difference(found, expected):
        place, value, right = wrong
        raise ValueError(f"image {record.job.id}: {place or 'its row'} is {shown(value)}, expected {shown(right)}")


def require_image(image: bytes, record: Record, *, is_same: bool) -> None:
    """
    Args:
        is_same: whether it has the pixels of the run's image, and was not encoded again.

    Raises:
        ValueError: it is not the record's image, or has another size.
    """
    if is_same and hashlib.sha256(image).hexdigest() == record.image_sha256:
        return
    size = (record.job.width, record.job.height)
    try:
        with Image.open(BytesIO(image), formats=("PNG", "JPEG", "WEBP")) as picture:
            if picture.size != size:  # before its pixels are decoded
                raise ValueError(f"image {record.job.id} has {picture.width}x{picture.height} px")
            # A signed image has other bytes than the run's.
            is_right = not is_same or _have_equal_pixels(picture, record)
    except OSError as error:
        raise ValueError(f"image {record.job.id} cannot be read: {error}") from error
    if not is_right:
        raise ValueError(f"has another image {record.job.id} than was made")


def _have_equal_pixels(picture: Image.Image, record: Record) -> bool:
    with Image.open(record.image_path, formats=("PNG",)) as made:
        return made.mode == picture.mode and np.array_equal(np.asarray(made), np.asarray(picture))
