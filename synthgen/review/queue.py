"""The questions of a review and their answers: a run's labels in random order, or its borderline images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc

from synthgen.errors import RunError
from synthgen.judging.precision import LabelPrecision, shuffled
from synthgen.judging.quality import Numbers
from synthgen.judging.reviews import Queue, Review, ReviewLog, Verdict
from synthgen.pipeline.build import Build
from synthgen.pipeline.label import labelled_samples, labels_digests
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

    The random queue sorts the labels that passed the filters by a hash of each. So the labels answered from its start
    are a simple random sample, however often people end a review and open it again.
    """

    def __init__(self, build: Build, queue: Queue, count: int | None, log: ReviewLog) -> None:
        run = build.run
        if not run.paths.verdicts.is_file():
            raise RunError(f"{run.root} has not been judged yet; run the spec first")
        self.build, self.queue, self._log = build, queue, log
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
            if index is not None and review.queue == self.queue and review.labels == self._labels[review.image_id]:
                latest[index] = review
        return latest

    def _index(self, review: Review) -> int | None:
        return self._indices.get(review.about, self._indices.get((review.image_id, None)))

    def add(self, index: int, verdict: Verdict, instance: int | None, category_id: int | None) -> None:
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
        if instance is not None and (item.image_id, instance) not in self._judged:
            raise ValueError(f"image {item.image_id} has no label {instance}")
        if category_id is not None and (verdict != "wrong_class" or category_id not in self._names):
            raise ValueError(f"no class has the number {category_id}")
        self._log.add(Review(item.image_id, instance, verdict, category_id, self.queue, self._labels[item.image_id]))

    def undo(self) -> int | None:
        """Undoes the last verdict; -> the index of its item, or None if the item is not in this queue."""
        review = self._log.undo()
        return self._index(review) if review else None

    def state(self) -> dict[str, Any]:
        """The number of answered items, the index of the next item, and the precision of the random sample so far."""
        latest = self.latest()
        given = [review for review in latest if review]
        right = sum(review.verdict == "accept" for review in given)
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
        samples = [*labelled_samples(self.build, item.shard, {item.image_id})]
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
                {**asdict(o), "scores": {k: float(v[o.instance]) for k, v in sample.instances.scores.items()}}
                for o in outlines(sample, self._judged, self._names, pixel)
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
