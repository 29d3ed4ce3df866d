"""The tables of a run, as Parquet: jobs, labels, measures and verdicts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from synthgen.base.wording import one_line
from synthgen.errors import RunError
from synthgen.spec import MEASURE_COLUMNS
from synthgen.store.files import Files
from synthgen.types import Job

ROWS = 65_536  # rows of a long table that are read at once

JOB_SCHEMA = pa.schema(
    [
        ("image_id", pa.int64()),
        ("run", pa.int32()),
        ("round", pa.int32()),
        ("index", pa.int32()),
        ("family", pa.string()),
        ("prompt", pa.string()),
        ("negative_prompt", pa.string()),
        ("slots", pa.map_(pa.string(), pa.string())),
        ("asked", pa.list_(pa.int32())),
        ("layout", pa.list_(pa.list_(pa.int32(), 4))),
        ("seed", pa.int64()),
        ("height", pa.int32()),
        ("width", pa.int32()),
    ]
)


LABEL_COLUMNS = {
    "image_id": pa.int64(),
    "instance": pa.int32(),
    "category_id": pa.int32(),
    "bbox_xyxy": pa.list_(pa.float32(), 4),
    "area": pa.int64(),
    "height": pa.int32(),
    "width": pa.int32(),
    "rle": pa.string(),
}
VERDICT_SCHEMA = pa.schema(
    [
        ("image_id", pa.int64()),
        ("instance", pa.int32()),
        ("shard", pa.int32()),
        ("split", pa.string()),
        ("category_id", pa.int32()),
        ("verdict", pa.string()),
        ("reasons", pa.list_(pa.string())),
        ("passed", pa.bool_()),
    ]
)
# The columns that a table must have: its folder, or its name -> these columns, and the columns that may hold null.
TABLES = {
    "jobs": (JOB_SCHEMA, {"layout"}),
    "labels": (pa.schema(LABEL_COLUMNS), set()),
    "measures": (pa.schema(zip(MEASURE_COLUMNS, (pa.int64(), pa.int32()), strict=True)), {"instance"}),
    "verdicts": (VERDICT_SCHEMA, {"instance", "split", "category_id"}),
    "corrections": (pa.schema(LABEL_COLUMNS), set()),
}


class Tables:
    """The tables of a run folder."""

    def __init__(self, files: Files) -> None:
        self._files, self._paths = files, files.paths

    def write(self, path: Path, table: pa.Table) -> Path:
        with self._files.writing(path) as file:
            pq.write_table(table, file, compression="zstd", row_group_size=ROWS)
        return path

    def read(self, path: Path, *, without: Collection[str] = (), image_ids: Collection[int] | None = None) -> pa.Table:
        """`without`: columns to leave out. `image_ids`: the images whose rows are read; None: all."""
        with self._reading(path) as file:
            names = [n for n in file.schema_arrow.names if n not in without]
            if image_ids is None:
                return self._formed(path, file.read(names, use_threads=False), without)
            self._formed(path, file.schema_arrow.empty_table(), without)
        ids = pa.array(list(image_ids), pa.int64())
        return self.read_rows(path, names, lambda rows: pc.is_in(rows["image_id"], ids))

    def read_rows(self, path: Path, names: Sequence[str], select: Callable[[pa.Table], pa.ChunkedArray]) -> pa.Table:
        """Some columns of the rows that `select` chooses. Memory holds few of the other rows at once."""
        return pa.concat_tables([rows.filter(select(rows)) for rows in self.read_batches(path, names)])

    def read_batches(self, path: Path, names: Sequence[str]) -> Iterator[pa.Table]:
        """Some columns of a long table, `ROWS` rows at a time. Yields at least one table."""
        with self._reading(path) as file:
            yield self._formed(path, file.schema_arrow.empty_table().select(names))
            for batch in file.iter_batches(columns=names, use_threads=False):
                yield self._formed(path, pa.Table.from_batches([batch]).select(names))

    @contextmanager
    def _reading(self, path: Path) -> Iterator[pq.ParquetFile]:
        try:
            with pq.ParquetFile(self._files.local(path)) as file:
                yield file
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            why = one_line(error, 300)
            raise RunError(f"{self._paths.name(path)} cannot be read: {why}") from error

    def _formed(self, path: Path, table: pa.Table, without: Collection[str] | None = None) -> pa.Table:
        """A table with its columns cast to the types of the schema.

        Args:
            without: columns that may be missing; None: any of them may.

        Raises:
            ValueError, KeyError, pa.ArrowException: a column has another type or gaps, or is missing.
        """
        form, gaps = TABLES[path.stem if path.parent == self._paths.root else path.parent.name]
        names = set(table.column_names)
        for name, kind in zip(form.names, form.types, strict=True):
            if name in names or (without is not None and name not in without):
                column = table[name].cast(kind)
                if column.null_count and name not in gaps:
                    raise ValueError(f"the column {name} has gaps")
                table = table.set_column(table.column_names.index(name), name, column)
        return table

    def write_jobs(self, shard: int, jobs: Sequence[Job]) -> Path:
        # The table is built from columns, because building it from a million rows takes a minute.
        columns: dict[str, list[Any]] = {
            name: [getattr(job, name) for job in jobs] for name in JOB_SCHEMA.names if name != "image_id"
        }
        columns["image_id"] = [job.id for job in jobs]
        columns["slots"] = [sorted(job.slots.items()) for job in jobs]
        arrays = [pa.array(columns[f.name], f.type) for f in JOB_SCHEMA]
        return self.write(self._paths.table("jobs", shard), pa.Table.from_arrays(arrays, schema=JOB_SCHEMA))

    def read_jobs(self, shard: int, image_ids: Collection[int] | None = None) -> list[dict[str, Any]]:
        """A row for each job of a shard, or of some images, by the names of `JOB_SCHEMA`. It has no split: the current
        spec decides that."""
        table = self.read(self._paths.table("jobs", shard), image_ids=image_ids)
        rows: list[dict[str, Any]] = table.to_pylist()
        return rows
