"""Writers of rows: into Parquet files that have the images in them, or into the metadata of an image folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import IO, Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from synthgen.backends import Folder

MAX_ROWS = 100  # of a row group
IMAGE = "image.bytes"  # a leaf of the schema
# Where pages end depends on the content alone, so that a store that knows parts of files, such as the hub's, is sent
# only what has changed. These are the numbers of `datasets`.
CHUNKS = {"min_chunk_size": 256 * 1024, "max_chunk_size": 1024 * 1024, "norm_level": 0}


class ShardWriter:
    """The files of one split, written one after the other. Memory holds a row group.

    Attributes:
        file_bytes: of the files that are whole.
        data_bytes: of what is in them, as Arrow holds it in memory.
    """

    def __init__(
        self, folder: Folder, names: Sequence[str], rows: Sequence[int], schema: pa.Schema, group_bytes: int,
        stack: ExitStack,
    ) -> None:  # fmt: skip
        """
        Args:
            names, rows: of each file, and how many rows go into it.
            group_bytes: of images, after which a row group ends.
            stack: ends the file that is open if writing fails.
        """
        self.file_bytes = self.data_bytes = 0
        self._folder, self._schema, self._group_bytes = folder, schema, group_bytes
        self._files, self._stack = iter(zip(names, rows, strict=True)), stack.enter_context(ExitStack())
        self._left = self._waiting_bytes = 0
        self._waiting: list[dict[str, Any]] = []

    def add(self, row: dict[str, Any], image_bytes: int = 0) -> None:
        """Appends a row, with its image in it, which has this size."""
        if not self._left:
            self._stack.close()
            name, self._left = next(self._files)
            self._writer = self._stack.enter_context(self._file(name))
        self._waiting.append(row)
        self._waiting_bytes += image_bytes
        self._left -= 1
        if not self._left or len(self._waiting) >= MAX_ROWS or self._waiting_bytes >= self._group_bytes:
            self._write_group()

    def finish(self) -> None:
        self._stack.close()

    def _write_group(self) -> None:
        table = pa.Table.from_pylist(self._waiting, self._schema)
        self._writer.write_table(table, row_group_size=len(self._waiting))
        self.data_bytes += table.nbytes
        self._waiting, self._waiting_bytes = [], 0

    @contextmanager
    def _file(self, name: str) -> Iterator[pq.ParquetWriter]:
        with self._folder.open(name) as file:
            with pq.ParquetWriter(file, self._schema, **_options(self._schema)) as writer:
                yield writer
            self.file_bytes += file.tell()


class MetadataWriter:
    """The `metadata.jsonl` of a split in an image folder. Attributes: see `ShardWriter`."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.file_bytes = self.data_bytes = 0

    def add(self, row: Mapping[str, Any], image_bytes: int = 0) -> None:
        """Appends a row. The image is in a file of its own."""
        self.data_bytes = self.file_bytes = self.file_bytes + self._file.write(metadata_line(row))

    def finish(self) -> None:
        """Its file is ended by who has opened it."""


def metadata_line(row: Mapping[str, Any]) -> bytes:
    """A row of a `metadata.jsonl`. JSON has no NaN; it becomes null."""
    return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)


def _options(schema: pa.Schema) -> dict[str, Any]:
    """How columns are written. Images are compressed already, and no two are alike."""
    leaves = [leaf for field in schema for leaf in _leaves(field.name, field.type)]
    others = [leaf for leaf in leaves if leaf != IMAGE]
    return {
        "compression": {leaf: "none" if leaf == IMAGE else "snappy" for leaf in leaves},
        "use_dictionary": others,
        "write_statistics": others,
        "write_page_index": True,
        "use_content_defined_chunking": CHUNKS,
    }


def _leaves(path: str, kind: pa.DataType) -> Iterator[str]:
    """The columns of a Parquet file that a column of the schema becomes."""
    if pa.types.is_struct(kind):
        for field in kind:
            yield from _leaves(f"{path}.{field.name}", field.type)
    elif pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        yield from _leaves(f"{path}.list.element", kind.value_type)
    else:
        yield path
