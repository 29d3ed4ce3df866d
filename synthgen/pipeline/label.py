"""The stage that labels: the images of a shard get boxes, classes and masks."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from synthgen.base.background import WriteBehind, prefetched
from synthgen.base.interrupts import raise_if_stopped
from synthgen.errors import RunError
from synthgen.judging.reviews import labels_digest
from synthgen.models import remarks
from synthgen.pipeline.build import Build
from synthgen.pipeline.environment import batches, environment
from synthgen.store.records import instances_of, label_rows, label_schema, read_corrections, with_corrections
from synthgen.types import Instances, Job, Sample


def label_shard(build: Build, shard: int, allow_mixed: bool = False) -> Mapping[str, int]:
    """Grounds and segments the images of a shard.

    Args:
        allow_mixed: see `environment`.
    """
    run, inputs = build.run, build.inputs("label", shard)
    if inputs is None or run.marks.is_done("label", shard, inputs):
        return build.counts("label", shard)
    grounder, segmenter = build.stages.grounder, build.stages.segmenter
    where = environment(build, "label", {"grounder": grounder, "segmenter": segmenter}, allow_mixed)
    run.marks.withdraw("label", shard)
    jobs, started = build.jobs(shard), time.monotonic()
    generated = run.marks.read("generate", shard)
    rows: list[dict[str, Any]] = []

    def read() -> Iterator[tuple[Sequence[Job], list[NDArray[np.uint8]]]]:
        for batch in batches(jobs, where, "segmenter"):
            yield batch, [run.images.read(shard, job.id, generated) for job in batch]

    def collect(batch: Sequence[Job], labels: Sequence[Instances]) -> None:
        for job, instances in zip(batch, labels, strict=True):
            rows.extend(label_rows(job.id, instances))

    with WriteBehind() as behind:
        for batch, images in prefetched(read()):
            raise_if_stopped()
            behind.submit(collect, batch, segmenter.segment(images, grounder.ground(batch, images)))
    file = run.tables.write(run.paths.table("labels", shard), pa.Table.from_pylist(rows, label_schema(rows)))
    counts = {"images": len(jobs), "instances": len(rows)}
    seconds = time.monotonic() - started
    run.marks.commit(
        "label", shard, inputs, [file], seconds=seconds, counts=counts, environment=where, notes=remarks.notes()
    )
    return counts


def labelled_samples(build: Build, shard: int, image_ids: set[int] | None = None) -> Iterator[Sample]:
    """The images of a shard, or some of them, one at a time, with the labels that the models made.

    Raises:
        RunError: an image or its labels are damaged.
    """
    labels = build.run.tables.read(build.run.paths.table("labels", shard), image_ids=image_ids)
    return _samples(build, shard, labels, image_ids)


def judged_samples(
    build: Build, shard: int, image_ids: set[int], corrections: pa.Table | None = None
) -> Iterator[Sample]:
    """`labelled_samples` with the masks that people gave, and the labels that they added.

    Args:
        corrections: of these images; None: those of the last judging, see `read_corrections`.
    """
    labels = build.run.tables.read(build.run.paths.table("labels", shard), image_ids=image_ids)
    masks = read_corrections(build.run, image_ids) if corrections is None else corrections
    labels = with_corrections(labels, masks).sort_by([("image_id", "ascending"), ("instance", "ascending")])
    return _samples(build, shard, labels, image_ids)


def _samples(build: Build, shard: int, labels: pa.Table, image_ids: set[int] | None) -> Iterator[Sample]:
    run, rows = build.run, labels.to_pandas()
    by_image = dict(iter(rows.groupby("image_id"))) if len(rows) else {}
    generated = run.marks.read("generate", shard)
    for job in build.jobs(shard, image_ids):
        image = run.images.read(shard, job.id, generated)
        try:
            sample = Sample(job, image, instances_of(by_image.get(job.id), job.height, job.width))
        except ValueError as error:
            what = f"the labels of image {job.id} in {run.paths.name(run.paths.table('labels', shard))} do not fit it"
            raise RunError(f"{what}: {error}; label the run anew") from error
        yield sample


def labels_digests(build: Build, shard: int, image_ids: set[int]) -> dict[int, str]:
    """Image id -> `labels_digest` of its labels as they are now."""
    rows: dict[int, list[dict[str, Any]]] = {image_id: [] for image_id in image_ids}
    table = build.run.tables.read(build.run.paths.table("labels", shard), image_ids=image_ids)
    for row in table.select(["image_id", "instance", "category_id", "rle"]).to_pylist():
        rows[row["image_id"]].append(row)
    return {image_id: labels_digest(labels) for image_id, labels in rows.items()}
