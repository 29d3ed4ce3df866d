"""The questions of a review and their answers: a run's labels in random order, or its borderline images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from math import isnan
from typing import Any

import numpy as np
import pyarrow.compute as pc

from synthgen.errors import RunError
from synthgen.judging.corrections import corrections
from synthgen.judging.precision import LabelPrecision, shuffled
from synthgen.judging.quality import Numbers
from synthgen.judging.reviews import PageVerdict, Queue, Review, ReviewLog, Reviews, Verdict
from synthgen.pipeline.build import Build
from synthgen.pipeline.label import judged_samples, labels_digests
from synthgen.report.thumbnails import judged_labels, outlines

MOST_INSTANCES = 1 << 20  # The most labels of an image. The key of a label is image id * MOST_INSTANCES + instance.


@dataclass(frozen=True, slots=True)
class Item:
    """One question of a review.

    Attributes:
        instance: the label that the question is about; None if it is about the image with all its labels.
        focus: the label that brought the image into the queue.
    """

    image_id: int
    shard: int
    instance: int | None
    focus: int | None


class ReviewQueue:
    """The items of a queue, in the order of the questions.

    Labels are shown with the classes and masks that people gave in the log, whether they are judged yet or not.

    The random queue sorts the labels that passed the filters by a hash of each. So the labels answered from its start
    are a simple random sample, however often people end a review and open it again.
    """

    def __init__(self, build: Build, queue: Queue, count: int | None, log: ReviewLog, by: str = "") -> None:
        run = build.run
        if not run.paths.verdicts.is_file():
            raise RunError(f"{run.root} has not been judged yet; run the spec first")
        self.build, self.queue, self._log, self._by = build, queue, log, by
        accepted = run.tables.read_rows(
            run.paths.verdicts,
            ["image_id", "instance", "passed"],
            lambda rows: pc.and_(pc.is_valid(rows["instance"]), rows["passed"]),
        )
        self.population = len(accepted)
        asked: list[tuple[int, int | None, int | None]]  # image, instance, focus
        if queue == "random":
            image_ids, instances = (accepted[name].to_numpy().astype(np.int64) for name in ("image_id", "instance"))
            most = LabelPrecision.of(0, 0, self.population).wanted if count is None else count
            chosen = shuffled(image_ids * MOST_INSTANCES + instances, build.spec.seed)[:most]
            asked = [(i, n, n) for i, n in zip(image_ids[chosen].tolist(), instances[chosen].tolist(), strict=True)]
        else:
            listed = Numbers.read(run.paths.quality).samples["borderline"][:count]
            asked = [(row["image_id"], None, row["nearest"]["instance"]) for row in listed]
        rows = run.tables.read(run.paths.verdicts, image_ids={image_id for image_id, _, _ in asked}).to_pandas()
        shards = dict(zip(rows["image_id"], rows["shard"].astype(int), strict=True))
        whole = rows[rows["instance"].isna()].set_index("image_id")
        judged = zip(whole.index, whole["verdict"], whole["reasons"], strict=True)
        self._verdicts = {int(i): (str(verdict), [*reasons]) for i, verdict, reasons in judged}
        if unknown := {image_id for image_id, _, _ in asked} - self._verdicts.keys():
            raise RunError(f"{run.root} has no verdict on image {min(unknown)}; judge it again")
        self.items = [Item(image_id, shards[image_id], instance, focus) for image_id, instance, focus in asked]
        if not self.items:
            what = "labels that passed the filters" if queue == "random" else "images near a threshold"
            raise RunError(f"{run.root} has no {what} to review")
        self._indices = {(item.image_id, item.instance): index for index, item in enumerate(self.items)}
        self._judged = judged_labels(rows)
        self._labels: dict[int, str] = {}  # image id -> digest of its labels
        for shard in {item.shard for item in self.items}:
            self._labels |= labels_digests(build, shard, {i.image_id for i in self.items if i.shard == shard})
        self._names = {c.id: c.name for c in build.spec.categories}
        self._made = {item.shard: run.marks.read("label", item.shard) for item in self.items}

    def latest(self) -> list[Review | None]:
        """The last verdict of this queue on each item, on the labels as they are now. For an image, this is the last
        one on the image or on one of its labels."""
        latest: list[Review | None] = [None] * len(self.items)
        for review in self._log.made:
            index = self._index(review)
            if index is None or review.labels != self._labels[review.image_id]:
                continue
            if review.queue == self.queue or (review.queue == "import" and latest[index]):
                latest[index] = review
        return latest

    def _index(self, review: Review) -> int | None:
        return self._indices.get(review.about, self._indices.get((review.image_id, None)))

    def add(self, index: int, verdict: PageVerdict, instance: int | None, category_id: int | None) -> None:
        """Records a verdict on the item with this index. The verdict is on the disk when this returns.

        Raises:
            ValueError: there is no such label or class, or the labels have changed since the review began.
            IndexError: there is no such item.
            SynthgenError: the verdict cannot be written.
        """
        item = self.items[index]
        if self.build.run.marks.read("label", item.shard) != self._made[item.shard]:
            raise ValueError(
                "The labels of this image have changed since the review began. End the review and open it again."
            )
        instance = item.instance if item.instance is not None else instance
        if verdict in {"wrong_class", "bad_mask"} and instance is None:
            raise ValueError("a verdict on a class or a mask needs the number of a label, got none")
        if item.instance is None and verdict in {"accept", "reject"}:
            instance = None
        standing = self._standing(item.image_id)
        if instance is not None and instance not in standing and (item.image_id, instance) not in self._judged:
            raise ValueError(f"image {item.image_id} has no label {instance}")
        if category_id is not None and (verdict != "wrong_class" or category_id not in self._names):
            raise ValueError(f"no class has the number {category_id}")
        review = Review(
            item.image_id, instance, verdict, category_id, self.queue, self._labels[item.image_id], by=self._by
        )
        before = standing.get(instance) if instance is not None else None
        self._log.add(_about_corrected(review, before) if before else review)

    def undo(self) -> int | None:
        """Undoes the last verdict; -> the index of its item, or None if the item is not in this queue.

        Raises:
            RunError: the last verdicts come from an imported file.
        """
        if any(review.queue == "import" for review in self._log.last):
            command = f"synthgen review {self.build.run.address} --undo"
            raise RunError(f"the last verdicts come from an imported file; to take them all back, use {command}")
        taken = self._log.undo()
        return self._index(taken[0]) if taken else None

    def _standing(self, image_id: int) -> dict[int, Review]:
        """The last verdict on each label of an image, by instance."""
        return {
            review.instance: review
            for review in self._log.standing().of.values()
            if review.image_id == image_id and review.instance is not None and review.labels == self._labels[image_id]
        }

    def state(self) -> dict[str, Any]:
        """The number of answered items, the index of the next item, and the precision of the random sample so far."""
        latest = self.latest()
        given = [review for review in latest if review]
        right = sum(review.is_right for review in given)
        precision = LabelPrecision.of(right, len(given), self.population) if self.queue == "random" else None
        return {
            "items": len(self.items),
            "done": len(given),
            "next": next((index for index, review in enumerate(latest) if review is None), None),
            "precision": precision and asdict(precision),
        }

    def item(self, index: int) -> Mapping[str, Any]:
        """What the page shows of the item with this index: prompt, verdict, reasons, and the outlines of its labels.

        Raises:
            RunError: the image is missing or cannot be read.
        """
        item = self.items[index]
        standing = self._standing(item.image_id)
        judged = {about: of for about, of in self._judged.items() if about[0] == item.image_id}
        for instance, review in standing.items():
            category_id, fate = judged.get((item.image_id, instance), (0, "kept"))
            judged[item.image_id, instance] = review.category_id or category_id, fate
        masks = corrections(
            Reviews({review.about: review for review in standing.values()}),
            lambda image_id, instance: judged[image_id, instance][0],
            self.build.spec.height,
            self.build.spec.width,
        )
        samples = [*judged_samples(self.build, item.shard, {item.image_id}, masks)]
        if len(samples) != 1:
            raise RunError(
                f"{self.build.run.root} has verdicts on image {item.image_id}, but no such image; judge it again"
            )
        sample = samples[0]
        verdict, reasons = self._verdicts[item.image_id]
        pixel = max(sample.image.shape[:2]) / 640
        return {
            "item": index,
            "image_id": item.image_id,
            "instance": item.instance,
            "focus": item.focus,
            "height": sample.job.height,
            "width": sample.job.width,
            "prompt": sample.job.prompt,
            "split": sample.job.split,
            "verdict": verdict,
            "reasons": reasons,
            "labels": [
                {
                    **asdict(o),
                    "note": _note(standing[o.instance]) if o.instance in standing else "",
                    "scores": {
                        k: float(v[o.instance]) for k, v in sample.instances.scores.items() if not isnan(v[o.instance])
                    },
                }
                for o in outlines(sample, judged, self._names, pixel)
            ],
        }

    def image(self, image_id: int) -> bytes | None:
        """The file of an image of the queue.

        Raises:
            RunError: it cannot be read, or a link on its path leads out of the run folder.
        """
        for item in self.items:
            if item.image_id == image_id:
                return self.build.run.images.read_bytes(item.shard, image_id)
        return None


def _about_corrected(review: Review, before: Review) -> Review:
    """A verdict of the page on a label that people corrected or added: it keeps their class and mask, which the page
    has shown. Beside a mask, `bad_mask` would say that the mask is right, so a fault that is not corrected is a
    rejection."""
    if before.rle is None:
        return replace(review, category_id=before.category_id) if review.verdict == "accept" else review
    is_class = review.verdict == "wrong_class" and review.category_id is not None
    verdict: Verdict = review.verdict if is_class or review.verdict == "accept" else "reject"
    return replace(review, verdict=verdict, category_id=review.category_id or before.category_id, rle=before.rle)


def _note(review: Review) -> str:
    """What people did to a label, for the page."""
    what = {"removed": "removed", "added": "added", "ignored": "to be ignored"}.get(review.verdict, "")
    if not what:
        what = " and ".join(["class"] * (review.category_id is not None) + ["mask"] * (review.rle is not None))
        what = f"{what} corrected" if what else ""
    return f"{what} by {review.by}" if what and review.by else what
