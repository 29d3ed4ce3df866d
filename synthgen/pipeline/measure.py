"""The stage that measures: every filter computes its numbers for the labelled images of a shard."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
from numpy.typing import NDArray

from synthgen.backends import Filter, measured
from synthgen.base.background import prefetched
from synthgen.models import remarks
from synthgen.pipeline.build import Build
from synthgen.pipeline.label import labelled_samples
from synthgen.types import Sample

# A batch ends when its images and masks have this many bytes. An image of 1024 x 1024 px has 3 MB, and each mask 1 MB.
MAX_BATCH_BYTES = 1 << 28


def measure_shard(build: Build, shard: int) -> Mapping[str, int]:
    """Writes every filter's raw numbers: a row for each image (`instance` is null), and one for each instance."""
    run, inputs = build.run, build.inputs("measure", shard)
    if inputs is None or run.marks.is_done("measure", shard, inputs):
        return build.counts("measure", shard)
    filters = build.stages.filters
    started = time.monotonic()
    run.marks.withdraw("measure", shard)
    columns = {name: _Column(name, f) for name, f in filters.items()}
    images: list[tuple[int, int]] = []  # id, and number of instances
    for sample in prefetched(labelled_samples(build, shard)):
        images.append((sample.job.id, len(sample.instances)))
        for column in columns.values():
            column.add(sample)
    rows: list[dict[str, Any]] = []
    values = {name: column.finish() for name, column in columns.items()}
    for index, (image_id, count) in enumerate(images):
        of_image: dict[str, Any] = {"image_id": image_id, "instance": None}
        of_instances: list[dict[str, Any]] = [{"image_id": image_id, "instance": i} for i in range(count)]
        for name, f in filters.items():
            value = values[name][index]
            if f.scope == "image":
                of_image[name] = value if f.vector else value.item()
            else:
                for row, number in zip(of_instances, value.tolist(), strict=True):
                    row[name] = number
        rows += [of_image, *of_instances]
    types = {name: pa.from_numpy_dtype(f.dtype) for name, f in filters.items()}
    fields = [(name, pa.list_(types[name]) if f.vector else types[name]) for name, f in filters.items()]
    schema = pa.schema([("image_id", pa.int64()), ("instance", pa.int32()), *fields])
    file = run.tables.write(run.paths.table("measures", shard), pa.Table.from_pylist(rows, schema))
    counts = {"images": len(images), "instances": len(rows) - len(images)}
    seconds = time.monotonic() - started
    run.marks.commit("measure", shard, inputs, [file], seconds=seconds, counts=counts, notes=remarks.notes())
    return counts


class _Column:
    """One filter's numbers for a shard. Each filter cuts the shard into batches of its own, from the first image on, so
    its numbers do not depend on the other filters, or on which process measures."""

    def __init__(self, name: str, f: Filter[Any]) -> None:
        self._name, self._filter = name, f
        self._waiting: list[Sample] = []
        self._waiting_bytes = 0
        self._values: list[NDArray[Any]] = []

    def add(self, sample: Sample) -> None:
        self._waiting.append(sample)
        self._waiting_bytes += sample.image.nbytes + sample.instances.masks.nbytes
        if len(self._waiting) >= self._filter.batch_size or self._waiting_bytes >= MAX_BATCH_BYTES:
            self._measure()

    def finish(self) -> list[NDArray[Any]]:
        """The numbers of every sample, in order."""
        self._measure()
        return self._values

    def _measure(self) -> None:
        if self._waiting:
            self._values += measured(self._name, self._filter, self._waiting)
            self._waiting.clear()
            self._waiting_bytes = 0
