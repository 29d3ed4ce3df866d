"""The stage that generates: the jobs of a shard become images."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synthgen.base.background import DEPTH, WriteBehind
from synthgen.base.interrupts import raise_if_stopped
from synthgen.models import remarks
from synthgen.pipeline.attempts import Attempts
from synthgen.pipeline.build import Build
from synthgen.pipeline.environment import batches, environment
from synthgen.pipeline.fingerprints import hash_of
from synthgen.pipeline.plan import shard_of
from synthgen.pipeline.provenance import packets
from synthgen.store.marks import Mark
from synthgen.types import Job


def generate_shard(build: Build, shard: int, allow_mixed: bool = False, strict: bool = False) -> Mapping[str, int]:
    """Makes the images of a shard, a batch at a time. Skips batches that are done.

    Args:
        allow_mixed: see `environment`.
        strict: see `Attempts`.
    """
    run, inputs = build.run, build.inputs("generate", shard)
    if inputs is None or run.marks.is_done("generate", shard, inputs):
        return build.counts("generate", shard)
    generator = build.stages.generator
    where = environment(build, "generate", {"generator": generator}, allow_mixed)
    jobs, started = build.jobs(shard), time.monotonic()
    packet = packets(build)
    attempts = Attempts(generator.generate, strict)
    batch_inputs = hash_of({"where": where}, inputs)  # batches of another size hold other images
    marks: dict[int, Mark] = {}

    def write(number: int, batch: Sequence[Job], images: Sequence[NDArray[np.uint8]], notes: dict[str, Any]) -> None:
        run.marks.withdraw_exports()  # they may hold links to the images that are replaced here
        pairs = zip(batch, images, strict=True)
        files = [run.images.write(shard, job.id, image, packet(job)) for job, image in pairs]
        marks[number] = run.marks.commit_batch(shard, number, batch_inputs, files, notes)

    with WriteBehind() as behind:
        for number, batch in enumerate(batches(jobs, where, "generator")):
            if mark := run.marks.read_batch(shard, number, batch_inputs):
                marks[number] = mark
                continue
            run.files.require_room((1 + DEPTH) * len(batch) * batch[0].height * batch[0].width * 3)
            behind.submit(write, number, batch, attempts.make(batch), attempts.notes(batch))
            raise_if_stopped()
    entries: dict[str, tuple[int, str]] = {}
    notes: dict[str, dict[str, Any]] = {}
    for _, mark in sorted(marks.items()):
        entries |= mark.files
        for name, values in mark.notes.items():
            notes.setdefault(name, {}).update(values)
    run.marks.commit(
        "generate",
        shard,
        inputs,
        [run.paths.image(shard, job.id) for job in jobs],
        seconds=time.monotonic() - started,
        counts={"images": len(jobs)},
        environment=where,
        notes=notes | ({"smaller_batches": attempts.smaller} if attempts.smaller else {}) | remarks.notes(),
        known=entries,
    )
    run.marks.clear_batches(shard)
    return {"images": len(jobs)}


def remake_image(build: Build, image_id: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Makes an image's batch again and writes nothing. Returns the image of the run and the new one, each uint8
    (H, W, 3), RGB."""
    run, shard = build.run, shard_of(build, image_id)
    mark = run.marks.read("generate", shard)
    of_shard = batches(build.jobs(shard), mark.environment if mark else {}, "generator")
    batch = next(b for b in of_shard if any(job.id == image_id for job in b))
    if mark and str(image_id) in mark.notes.get("again", {}):  # it was made alone
        batch = [job for job in batch if job.id == image_id]
    images = build.stages.generator.generate(batch)
    index = [job.id for job in batch].index(image_id)
    return run.images.read(shard, image_id, mark), images[index][..., :3]
