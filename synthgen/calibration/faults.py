"""Faults planted into images whose truth is known.

The spec's segmenter labels each image, given the true boxes. A share of the images then gets one fault each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from synthgen.backends import Segmenter
from synthgen.calibration.truths import Truths
from synthgen.masks import box_iou, mask_boxes, paired_mask_iou
from synthgen.planning.prompts import enumeration, with_article
from synthgen.spec import DatasetSpec
from synthgen.types import Grounding, Instances, Job, Sample

GOOD_IOU = 0.75  # The least IoU of a good mask with the true one. A label with less is bad, though nobody planted it.
POOR = "poor mask"  # The fault of a label that the segmenter itself got wrong.
SHIFT = (0.4, 0.7)  # The least and most shift of a box, as a share of its side.
SHIFTS = 3  # The most tries to shift a box: a good segmenter may find its object from a box beside it.
BLUR = 0.03  # The standard deviation of the blur, as a share of the image's shorter side.
NOISE = 2  # The most grey levels by which a duplicate differs.
TWINS = 8  # The number of earlier images kept for duplicates, which bounds the memory.


@dataclass(frozen=True, slots=True)
class Planted:
    """A labelled image.

    Attributes:
        fault: "" (none), `POOR`, or a key of `FAULTS`.
        bad: bool (N,), which of its instances are wrong.
        bad_image: whether the image as a whole is wrong.
        twin: the index, from 0, of the earlier image that it repeats.
    """

    sample: Sample
    fault: str
    bad: NDArray[np.bool_]
    bad_image: bool
    twin: int | None = None


@dataclass(frozen=True)
class Planter:
    """Plants faults into well labelled samples. Its methods return None if the sample does not allow the fault.

    Attributes:
        names: category id -> class.
        others: (index, sample) of earlier images, for duplicates.
    """

    segmenter: Segmenter[Any]
    names: Mapping[int, str]
    rng: np.random.Generator
    others: list[tuple[int, Sample]] = field(default_factory=list)

    def label(self, image: NDArray[np.uint8], boxes: NDArray[np.float32], ids: NDArray[np.int64]) -> Instances:
        return self.segmenter.segment([image], [Grounding(boxes.astype(np.float32), ids)])[0]

    def shifted(self, sample: Sample, ground: str) -> Planted | None:
        """A box beside its object, with the mask that the segmenter finds there, if this is not the object's."""
        chosen, before = self._one(sample), sample.instances
        height, width = sample.image.shape[:2]
        box = before.boxes[chosen][0]
        for _ in range(SHIFTS):
            moved = beside(box, self.rng.uniform(*SHIFT, 2), height, width)
            moved_label = self.label(sample.image, moved[None], before.category_id[chosen])
            if (paired_mask_iou(moved_label.masks, before.masks[chosen]) < GOOD_IOU).all():
                return Planted(replace(sample, instances=_replaced(before, moved_label, chosen)), "", chosen, True)
        return None

    def swapped(self, sample: Sample, ground: str) -> Planted | None:
        """An object with another class, for which the prompt asks too."""
        chosen, ids = self._one(sample), sample.instances.category_id.copy()
        other = [c for c in self.names if c != ids[chosen][0]]
        if not other:
            return None
        ids[chosen] = self.rng.choice(other)
        instances = replace(sample.instances, category_id=ids)
        return Planted(replace(sample, job=self._asked(sample.job, ids, ground), instances=instances), "", chosen, True)

    def cut(self, sample: Sample, ground: str) -> Planted | None:
        """A mask without its left, right, upper or lower half. It keeps its scores, except `box_iou`."""
        chosen, before = self._one(sample), sample.instances
        i = int(chosen.argmax())
        masks, boxes, scores = before.masks.copy(), before.boxes.copy(), dict(before.scores)
        pixels = np.argwhere(masks[i])
        order = pixels[:, self.rng.integers(2)].argsort(kind="stable")[:: self.rng.choice((-1, 1))]
        ys, xs = pixels[order[: len(order) // 2]].T
        masks[i, ys, xs] = False
        boxes[i] = mask_boxes(masks[i : i + 1])[0]
        if "box_iou" in scores and sample.job.layout:
            scores["box_iou"] = scores["box_iou"].copy()
            scores["box_iou"][i] = box_iou(boxes[i : i + 1], np.array(sample.job.layout[i : i + 1], np.float32))[0, 0]
        return Planted(replace(sample, instances=Instances(masks, boxes, before.category_id, scores)), "", chosen, True)

    def blanked(self, sample: Sample, ground: str) -> Planted | None:
        """An image of one flat colour, the mean of the sample's."""
        flat = np.empty_like(sample.image)
        flat[:] = sample.image.mean((0, 1)).astype(np.uint8)
        return self._again(sample, flat)

    def blurred(self, sample: Sample, ground: str) -> Planted | None:
        sigma = BLUR * min(sample.image.shape[:2])
        return self._again(sample, np.asarray(cv2.GaussianBlur(sample.image, (0, 0), sigma), np.uint8))

    def duplicated(self, sample: Sample, ground: str) -> Planted | None:
        """An earlier image again, with invisible noise."""
        if not self.others:
            return None
        index, twin = self.others[int(self.rng.integers(len(self.others)))]
        noise = self.rng.integers(-NOISE, NOISE + 1, twin.image.shape)
        image = (twin.image.astype(int) + noise).clip(0, 255).astype(np.uint8)
        job = replace(twin.job, id=sample.job.id, index=sample.job.index, seed=sample.job.seed)
        return Planted(replace(twin, job=job, image=image), "", np.zeros(len(twin.instances), bool), True, index)

    def unlabelled(self, sample: Sample, ground: str) -> Planted | None:
        """An object that the prompt does not ask for, and that has no label."""
        instances = sample.instances[~self._one(sample)]
        job = self._asked(replace(sample.job, asked=(), layout=None), instances.category_id, ground)
        return Planted(replace(sample, job=job, instances=instances), "", np.zeros(len(instances), bool), True)

    def _again(self, sample: Sample, image: NDArray[np.uint8]) -> Planted:
        """The sample with another image, which the segmenter labels again."""
        before = sample.instances
        boxes = before.boxes if sample.job.layout is None else np.array(sample.job.layout, np.float32)
        instances = self.label(image, boxes, before.category_id)
        return Planted(replace(sample, image=image, instances=instances), "", np.zeros(len(before), bool), True)

    def _asked(self, job: Job, ids: NDArray[np.int64], ground: str) -> Job:
        """The job with a prompt that asks for these classes."""
        kinds = tuple(int(i) for i in ids)
        return replace(job, asked=kinds, prompt=prompt([self.names[i] for i in kinds], ground))

    def _one(self, sample: Sample) -> NDArray[np.bool_]:
        chosen = np.zeros(len(sample.instances), bool)
        chosen[self.rng.integers(len(chosen))] = True
        return chosen


FAULTS: dict[str, Callable[[Planter, Sample, str], Planted | None]] = {
    "shifted box": Planter.shifted,
    "swapped class": Planter.swapped,
    "cut mask": Planter.cut,
    "blank image": Planter.blanked,
    "blurred image": Planter.blurred,
    "duplicate": Planter.duplicated,
    "unlabelled thing": Planter.unlabelled,
}
KINDS = (*FAULTS, POOR)


def prompt(names: Sequence[str], ground: str) -> str:
    """`(["cat", "car"], "grass")` -> "a photo of a cat and a car on grass"."""
    content = " on ".join(part for part in (enumeration([with_article(name) for name in names]), ground) if part)
    return f"a photo of {content}" if content else "a photo"


def plant(spec: DatasetSpec, segmenter: Segmenter[Any], truths: Truths, share: float, seed: int) -> Iterator[Planted]:
    """Labels images of known truth, given their true boxes. Plants one fault, the kinds in turn, into a share of those
    that the segmenter labels well."""
    rng = np.random.default_rng([seed, 1])
    names = {c.id: c.name for c in spec.categories}
    planter, queue = Planter(segmenter, names, rng), list(FAULTS)
    for index, truth in enumerate(truths.images):
        height, width = truth.image.shape[:2]
        boxes, kinds = mask_boxes(truth.masks), tuple(int(i) for i in truth.category_id)
        job = Job(
            id=index + 1, run=1, round=1, index=index, family=str(index), split="test",
            prompt=prompt([names[i] for i in kinds], truth.ground), negative_prompt="", slots={}, asked=kinds,
            layout=tuple((int(a), int(b), int(c), int(d)) for a, b, c, d in boxes), seed=index, height=height,
            width=width,
        )  # fmt: skip
        sample = Sample(job, truth.image, planter.label(truth.image, boxes, truth.category_id))
        bad = paired_mask_iou(sample.instances.masks, truth.masks) < GOOD_IOU
        if bad.any():
            yield Planted(sample, POOR, bad, True)
        elif rng.random() < share and (planted := _first(planter, queue, sample, truth.ground)):
            yield planted
        else:
            planter.others.append((index, sample))
            del planter.others[:-TWINS]
            yield Planted(sample, "", bad, False)


def _first(planter: Planter, queue: list[str], sample: Sample, ground: str) -> Planted | None:
    """Plants the first fault of the queue that the sample allows, and moves it to the queue's end."""
    for kind in list(queue):
        if planted := FAULTS[kind](planter, sample, ground):
            queue.remove(kind)
            queue.append(kind)
            return replace(planted, fault=kind)
    return None


def beside(box: NDArray[np.float32], share: NDArray[np.float64], height: int, width: int) -> NDArray[np.float32]:
    """Moves a box (4,), xyxy px, by shares (x, y) of its sides, towards the side with more room, and cuts it to the
    image. Something is left of every box that lies inside the image."""
    low, high = box[:2].astype(float), box[2:].astype(float)
    limits = np.array([width, height])
    move = share * (high - low) * np.where(low + high < limits, 1, -1)
    return np.concatenate([low + move, high + move]).clip(0, np.tile(limits, 2)).astype(np.float32)


def _replaced(before: Instances, after: Instances, chosen: NDArray[np.bool_]) -> Instances:
    """`before` with its chosen instance replaced by the only instance of `after`."""
    masks, boxes, scores = before.masks.copy(), before.boxes.copy(), dict(before.scores)
    masks[chosen], boxes[chosen] = after.masks, after.boxes
    for name, numbers in after.scores.items():
        if name in scores:
            scores[name] = scores[name].copy()
            scores[name][chosen] = numbers
    return Instances(masks, boxes, before.category_id, scores)
