"""The labels of a run as its exports have them, to be compared with what annotators made of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc

from synthgen.errors import RunError
from synthgen.judging.corrections import corrections
from synthgen.judging.reviews import Review, Reviews
from synthgen.judging.verdicts import REMOVED
from synthgen.pipeline.build import Build
from synthgen.pipeline.label import labels_digests
from synthgen.review.annotated import AnnotatedImage, AnnotationError
from synthgen.store.records import read_corrections

Mask = tuple[int, str]  # category id, and RLE counts
Row = Mapping[str, Any]  # of a table


@dataclass(frozen=True, slots=True)
class Label:
    """A label of the run.

    Attributes:
        made: as the models made it; None if people added it.
        now: as exports have it.
        box: as exports have it, xyxy px. Without pixels in the mask, it is the box that was grounded.
        fate: its verdict, or "removed" if people removed it; "" if people added it and it has not been judged yet.
    """

    instance: int
    made: Mask | None
    now: Mask
    box: tuple[float, ...]
    fate: str


@dataclass(frozen=True, slots=True)
class ExportedImage:
    """An image of the run.

    Attributes:
        labels: by instance.
        made: how many of them the models made; the numbers of the others follow.
        digest: see `labels_digest`.
        reviews: the verdicts that hold, on its labels, and on itself under None.
    """

    image_id: int
    shard: int
    labels: Mapping[int, Label]
    made: int
    digest: str
    reviews: Mapping[int | None, Review]


def exported(build: Build, given: Mapping[int, AnnotatedImage], standing: Reviews) -> Iterator[ExportedImage]:
    """The images of a run that a file has, by shard and id.

    Args:
        given: the images of the file, by id.
        standing: the verdicts that hold.

    Raises:
        AnnotationError: the run lacks an image of the file.
        RunError: the verdicts are not on the labels of an image.
    """
    run = build.run
    judged = run.tables.read(run.paths.verdicts, image_ids=given)
    of_images, of_labels = judged.filter(pc.is_null(judged["instance"])), judged.filter(pc.is_valid(judged["instance"]))
    shards: dict[int, int] = {row["image_id"]: row["shard"] for row in of_images.to_pylist()}
    for image_id, image in given.items():
        if image_id not in shards:
            raise AnnotationError(f"{image.where}: {run.address} has no image {image_id}; is the file of another run?")
    verdicts: dict[int, dict[int, Row]] = {image_id: {} for image_id in given}
    for row in of_labels.to_pylist():
        verdicts[row["image_id"]][row["instance"]] = row
    masks = read_corrections(run, given)
    corrected: dict[int, dict[int, Row]] = {}
    for row in masks.to_pylist() if masks is not None else ():
        corrected.setdefault(row["image_id"], {})[row["instance"]] = row
    reviews: dict[int, list[Review]] = {}
    for review in standing.of.values():
        reviews.setdefault(review.image_id, []).append(review)
    for shard in sorted(set(shards.values())):
        ids = {image_id for image_id, of in shards.items() if of == shard}
        digests = labels_digests(build, shard, ids)
        made: dict[int, dict[int, Row]] = {image_id: {} for image_id in ids}
        for row in run.tables.read(run.paths.table("labels", shard), image_ids=ids).to_pylist():
            made[row["image_id"]][row["instance"]] = row
        for i in sorted(ids):
            held = {review.instance: review for review in reviews.get(i, ()) if review.labels == digests[i]}
            labels = _labels(build, i, made[i], verdicts[i], corrected.get(i, {}), held)
            yield ExportedImage(i, shard, labels, len(made[i]), digests[i], held)


def _labels(
    build: Build,
    image_id: int,
    made: Mapping[int, Row],
    verdicts: Mapping[int, Row],
    corrected: Mapping[int, Row],
    held: Mapping[int | None, Review],
) -> dict[int, Label]:
    """The labels of an image: those that were judged, and those that people have added since."""
    if verdicts.keys() != made.keys() | corrected.keys():
        raise RunError(f"the verdicts on image {image_id} are not on its labels; judge the run again")
    labels = {}
    for number, row in verdicts.items():
        if number in made or number in held:  # Otherwise people have taken back that they added it.
            own, mask = made.get(number), corrected.get(number) or made[number]
            before = (own["category_id"], own["rle"]) if own else None
            fate = "removed" if REMOVED in row["reasons"] else row["verdict"]
            labels[number] = Label(number, before, (row["category_id"], mask["rle"]), tuple(mask["bbox_xyxy"]), fate)
    for instance, review in held.items():
        if (
            instance is not None
            and instance not in labels
            and review.category_id is not None
            and review.rle is not None
        ):
            fate = review.verdict if review.verdict in {"ignored", "removed"} else ""
            now = review.category_id, review.rle
            (row,) = corrections(
                Reviews({review.about: review}), lambda *_: 0, build.spec.height, build.spec.width
            ).to_pylist()
            labels[instance] = Label(instance, None, now, tuple(row["bbox_xyxy"]), fate)
    return labels
