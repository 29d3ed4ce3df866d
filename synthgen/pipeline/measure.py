"""The stage that measures: every filter takes its numbers of the labelled images of a shard."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from synthgen.backends import measured
from synthgen.base.overlap import ahead
from synthgen.models import remarks
from synthgen.pipeline.build import Build
from synthgen.pipeline.label import labelled_samples


def measure_shard(build: Build, shard: int) -> Mapping[str, int]:
    """Writes every filter's raw numbers: a row for each image (`instance` is null), and one for each instance."""
    run, inputs = build.run, build.inputs("measure", shard)
    if inputs is None or run.marks.is_done("measure", shard, inputs):
        return build.counts("measure", shard)
    filters = build.stages.filters
    started, rows, images = time.monotonic(), list[dict[str, Any]](), 0
    run.marks.withdraw("measure", shard)
    for sample in ahead(labelled_samples(build, shard)):
        images += 1
        of_image: dict[str, Any] = {"image_id": sample.job.id, "instance": None}
        of_instances: list[dict[str, Any]] = [
            {"image_id": sample.job.id, "instance": i} for i in range(len(sample.instances))
        ]
        for name, f in filters.items():
            values = measured(name, f, sample)
            if f.scope == "image":
                of_image[name] = values if f.vector else values.item()
            else:
                for row, value in zip(of_instances, values.tolist(), strict=True):
                    row[name] = value
        rows += [of_image, *of_instances]
    types = {name: pa.from_numpy_dtype(f.dtype) for name, f in filters.items()}
    fields = [(name, pa.list_(types[name]) if f.vector else types[name]) for name, f in filters.items()]
    schema = pa.schema([("image_id", pa.int64()), ("instance", pa.int32()), *fields])
    file = run.tables.write(run.paths.table("measures", shard), pa.Table.from_pylist(rows, schema))
    counts = {"images": images, "instances": len(rows) - images}
    seconds = time.monotonic() - started
    run.marks.commit("measure", shard, inputs, [file], seconds=seconds, counts=counts, notes=remarks.notes())
    return counts
