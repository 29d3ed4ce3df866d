"""The stage that judges: numbers and reviews become verdicts and the figures of `quality.json`."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pyarrow as pa

from synthgen.errors import RunError
from synthgen.judging.corrections import corrected, corrections
from synthgen.judging.counting import quality_of
from synthgen.judging.figures import figures
from synthgen.judging.quality import Quality
from synthgen.judging.reviews import Reviews, read_reviews
from synthgen.judging.summary import shortfall
from synthgen.judging.tables import Tables
from synthgen.judging.verdicts import Verdicts, judge
from synthgen.pipeline.build import Build
from synthgen.pipeline.label import labels_digests
from synthgen.pipeline.timings import timings

if TYPE_CHECKING:
    import pandas as pd


def judge_run(build: Build) -> Quality:
    """Writes `verdicts.parquet`, `quality.json` and, if people corrected masks, `corrections.parquet`, if their inputs
    have changed.

    Raises:
        RunError: some images have no measures yet, or a record is damaged.
    """
    run, inputs = build.run, build.inputs("judge")
    if inputs is None:
        raise RunError(f"{run.root} has images without measures; run the spec to make them")
    if not run.marks.is_done("judge", None, inputs):
        run.marks.withdraw("judge")
        started = time.monotonic()
        tables = Tables.read(run, run.marks.shards(), build.stages.filters, shown=True)
        verdicts, masks = _verdicts(build, tables)
        written = [run.tables.write(run.paths.verdicts, verdicts.table())]
        if len(masks):
            written.append(run.tables.write(run.paths.corrections, masks))
        elif run.paths.corrections.exists():
            run.files.remove([run.paths.corrections])
        quality = quality_of(verdicts)
        notes = list(shortfall(quality, build.next_round(quality) is None))
        numbers = asdict(quality) | {"yield": quality.passed, "notes": notes}
        numbers |= figures(verdicts)
        _describe(build, numbers["samples"], verdicts.images)
        numbers["models"] = [{"stage": key, **model} for key, model in build.models.items()]
        numbers["timings"] = timings(run, numbers["accepted"])
        with run.files.writing(run.paths.quality) as file:
            file.write(orjson.dumps(numbers, option=orjson.OPT_INDENT_2))
        reviews = read_reviews(run.paths.reviews).extent()
        seconds = time.monotonic() - started
        written.append(run.paths.quality)
        run.marks.commit("judge", None, inputs, written, seconds=seconds, notes={"reviews": reviews})
    quality_now = build.quality()
    assert quality_now is not None
    return quality_now


def judge_shards(build: Build, shards: Iterable[int]) -> Verdicts:
    """Applies the spec's thresholds and the reviews to the numbers of some shards. Writes nothing."""
    return _verdicts(build, Tables.read(build.run, shards, build.stages.filters))[0]


def _verdicts(build: Build, tables: Tables) -> tuple[Verdicts, pa.Table]:
    """The verdicts, and the labels whose masks come from people, see `corrections`."""
    categories = (tables.asked.values, tables.labels["category_id"])
    if not all(build.has_classes(values.min(), values.max()) for values in categories if len(values)):
        raise RunError(f"{build.run.address} has labels of classes that its spec lacks; label the run anew")
    marks = (build.run.marks.read("generate", int(shard)) for shard in np.unique(tables.images["shard"]))
    failed = {int(image_id) for mark in marks if mark for image_id in mark.notes.get("failed", ())}
    reviews = _reviews(build, tables)
    masks = corrections(reviews, tables.category, build.spec.height, build.spec.width)
    tables = corrected(tables, reviews, masks, build.stages.filters)
    return judge(build.spec, build.stages.filters, tables, reviews, failed), masks


def _reviews(build: Build, tables: Tables) -> Reviews:
    """The reviews of these images, without those of labels that have changed since."""
    reviews = read_reviews(build.run.paths.reviews)
    ids = tables.images["image_id"]
    is_reviewed = np.isin(ids, list(reviews.image_ids()))
    shards, labels = tables.images["shard"][is_reviewed], dict[int, str]()
    for shard in np.unique(shards).tolist():
        labels |= labels_digests(build, shard, set(ids[is_reviewed][shards == shard].tolist()))
    reviews = reviews.where(lambda review: labels.get(review.image_id) == review.labels)
    added = dict[int, int]()  # image id -> how many labels people have added to it
    for (image_id, instance), review in sorted(reviews.of.items(), key=lambda item: (item[0][0], item[0][1] or 0)):
        own = tables.labels_of(image_id)
        count = own.stop - own.start
        is_label = instance is None or instance < count
        if not is_label and instance == count + added.get(image_id, 0):
            is_label = review.rle is not None and review.category_id is not None
            added[image_id] = added.get(image_id, 0) + 1
        if not (is_label and (review.category_id is None or build.has_classes(review.category_id))):
            raise RunError(f"{build.run.paths.reviews.name} has a verdict on a label or a class that does not exist")
    return reviews


def _describe(build: Build, samples: Mapping[str, list[dict[str, Any]]], images: pd.DataFrame) -> None:
    """Adds the split, prompt and seed of their jobs to the rows of sampled images."""
    rows: dict[int, list[dict[str, Any]]] = {}
    for kind in samples.values():
        for row in kind:
            rows.setdefault(row["image_id"], []).append(row)
    for shard in sorted(set(images.loc[images["image_id"].isin(rows), "shard"])):
        for job in build.jobs(int(shard), rows):
            for row in rows.get(job.id, ()):
                row |= {"split": job.split, "prompt": job.prompt, "seed": job.seed}
