"""The records of a run as tables: what is judged, and what is shown of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from synthgen.store import Run

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Tables:
    """The records of shards, without pixels and masks.

    Attributes:
        jobs: image_id, shard, family, asked (category ids), layout_xyxy (float32 (N, 4) px, or None), height, width.
        labels: image_id, instance, category_id, area, x0, y0, x1, y1 (px), and every score that labels have.
        measures: image_id, instance (null: the image), a column a filter.
    """

    jobs: pd.DataFrame
    labels: pd.DataFrame
    measures: pd.DataFrame

    @classmethod
    def read(cls, run: Run, shards: Iterable[int]) -> Tables:
        import pandas as pd

        measures, labels, jobs = [], [], []
        for shard in shards:
            measures.append(run.read_table(run.table_file("measures", shard)))
            labels.append(run.read_table(run.table_file("labels", shard)).drop_columns(["rle", "height", "width"]))
            table = run.read_table(run.table_file("jobs", shard))
            table = table.select(["image_id", "family", "asked", "layout", "height", "width"])
            jobs.append(table.append_column("shard", pa.array(np.full(len(table), shard, np.int32))))
        # Hashes are whole 64-bit numbers, and null in rows of instances: pandas would make floats of them.
        types = {pa.uint64(): pd.UInt64Dtype()}.get
        labelled, asked = pa.concat_tables(labels, promote_options="default"), pa.concat_tables(jobs)
        corners = labelled.column("bbox_xyxy").combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(-1, 4)
        frame = labelled.drop_columns(["bbox_xyxy"]).to_pandas()
        for name, values in zip(("x0", "y0", "x1", "y1"), corners.T, strict=True):
            frame[name] = values
        planned = asked.drop_columns(["layout"]).to_pandas()
        planned["layout_xyxy"] = list(_layouts(asked.column("layout").combine_chunks()))
        return cls(planned, frame, pa.concat_tables(measures).to_pandas(types_mapper=types))


def _layouts(column: pa.ListArray) -> Iterator[Any]:
    """A column of lists of boxes -> float32 (N, 4) for each row, or None where it is null."""
    boxes = column.flatten().flatten().to_numpy(zero_copy_only=False).reshape(-1, 4).astype(np.float32)
    valid, lengths = column.is_valid().to_numpy(zero_copy_only=False), column.value_lengths().fill_null(0).to_numpy()
    ends = lengths.cumsum()
    for has, begin, end in zip(valid, ends - lengths, ends, strict=True):
        yield boxes[begin:end] if has else None
