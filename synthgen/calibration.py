"""How well each measure tells good labels from bad: faults are planted into images whose truth is known.

Truth is composed scenes, or a COCO file of the user's. The spec's segmenter labels it by the true boxes, faults go
into a share of the images, and the spec's filters measure all of it as they would measure a run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from synthgen.backends import Filter, Segmenter, ThresholdFilter
from synthgen.errors import Problem, SpecError, listed
from synthgen.masks import box_iou, mask_boxes
from synthgen.spec import DatasetSpec
from synthgen.stages import Stages
from synthgen.types import Grounding, Instances, Job, Sample

GOOD_IOU = 0.75  # of a mask with the true one; below, the label is bad without anybody's planting
SHIFT = (0.4, 0.7)  # of a box's side
BLUR = 0.03  # standard deviation, as a share of the image's shorter side
NOISE = 2  # grey levels by which a duplicate differs, at most


@dataclass(frozen=True, slots=True)
class Truth:
    """An image, uint8 (H, W, 3), RGB, with all that can be seen of the spec's classes: masks bool (N, H, W), category
    ids (N,), and the prompt that it could have been made of."""

    image: NDArray[np.uint8]
    masks: NDArray[np.bool_]
    category_id: NDArray[np.int64]
    prompt: str


@dataclass(frozen=True, slots=True)
class Planted:
    """A labelled image. `fault`: "" or a key of `FAULTS`; `bad`: bool (N,), which of its instances are wrong;
    `bad_image`: whether it is wrong as a whole."""

    sample: Sample
    fault: str
    bad: NDArray[np.bool_]
    bad_image: bool


@dataclass(frozen=True, slots=True)
class Measured:
    """What a filter makes of the planted images.

    Attributes:
        name: the filter's, in the spec.
        auroc: fault -> how well its numbers tell that fault from good labels; no entry where it cannot be said.
        caught: fault -> share of the images with it that fail.
        lost: share of the images without fault that fail.
        threshold, yielded: the threshold at which the wanted share of what is kept is good, and the share of what is
            good that it keeps; None where no threshold does.
    """

    name: str
    auroc: Mapping[str, float]
    caught: Mapping[str, float]
    lost: float
    threshold: float | None
    yielded: float | None


@dataclass(frozen=True, slots=True)
class Calibration:
    """Of all filters. `caught` and `lost` are of all together; `images`: fault, or "" -> how many."""

    measures: Sequence[Measured]
    caught: Mapping[str, float]
    lost: float
    images: Mapping[str, int]
    precision: float


@dataclass(frozen=True)
class Planter:
    """Plants faults. `others`: images that have gone before, for duplicates."""

    segmenter: Segmenter[Any]
    classes: Sequence[int]
    rng: np.random.Generator
    others: list[Sample] = field(default_factory=list)

    def label(self, sample: Sample, boxes: NDArray[np.float32]) -> Instances:
        grounding = Grounding(boxes.astype(np.float32), sample.instances.category_id)
        return self.segmenter.segment([sample.image], [grounding])[0]

    def shifted(self, sample: Sample) -> tuple[Sample, NDArray[np.bool_]]:
        """A box that lies beside its object, and what the segmenter makes of it."""
        boxes, chosen = sample.instances.boxes.copy(), self._one(sample)
        height, width = sample.image.shape[:2]
        x0, y0, x1, y1 = boxes[chosen][0]
        move = self.rng.uniform(*SHIFT, 2) * self.rng.choice((-1, 1), 2) * (x1 - x0, y1 - y0)
        # Towards the side with more room, so that it stays in the image.
        move = np.where(np.array([x0 + x1, y0 + y1]) / 2 < np.array([width, height]) / 2, np.abs(move), -np.abs(move))
        boxes[chosen] = (boxes[chosen] + np.tile(move, 2)).clip(0, [width, height, width, height])
        boxes[chosen, 2:] = np.maximum(boxes[chosen, 2:], boxes[chosen, :2] + 2)
        found = self.label(sample, boxes)
        instances = _replaced(sample.instances, found, chosen)
        return replace(sample, instances=instances), chosen

    def swapped(self, sample: Sample) -> tuple[Sample, NDArray[np.bool_]]:
        """An object under another class's name; the prompt asked for that one."""
        chosen, category_id = self._one(sample), sample.instances.category_id.copy()
        category_id[chosen] = self.rng.choice([c for c in self.classes if c != category_id[chosen][0]])
        job = replace(sample.job, asked=tuple(category_id.tolist()))
        return replace(sample, job=job, instances=replace(sample.instances, category_id=category_id)), chosen

    def cut(self, sample: Sample) -> tuple[Sample, NDArray[np.bool_]]:
        """A mask of which one half is missing."""
        chosen, masks = self._one(sample), sample.instances.masks.copy()
        mask = masks[chosen][0]
        ys, xs = np.nonzero(mask)
        if self.rng.random() < 0.5:
            mask[:, : round(float(np.median(xs)))] = False
        else:
            mask[: round(float(np.median(ys)))] = False
        masks[chosen] = mask
        boxes, scores = sample.instances.boxes.copy(), dict(sample.instances.scores)
        boxes[chosen] = mask_boxes(masks[chosen])
        if "box_iou" in scores:  # the segmenter would have said so
            agreement = box_iou(boxes[chosen], sample.instances.boxes[chosen]).diagonal()
            scores["box_iou"] = scores["box_iou"].copy()
            scores["box_iou"][chosen] *= agreement
        return replace(sample, instances=Instances(masks, boxes, sample.instances.category_id, scores)), chosen

    def blanked(self, sample: Sample) -> tuple[Sample, NDArray[np.bool_]]:
        """One flat colour."""
        flat = np.empty_like(sample.image)
        flat[:] = sample.image.mean((0, 1)).astype(np.uint8)
        return self._again(sample, flat)

    def blurred(self, sample: Sample) -> tuple[Sample, NDArray[np.bool_]]:
        sigma = BLUR * min(sample.image.shape[:2])
        return self._again(sample, np.asarray(cv2.GaussianBlur(sample.image, (0, 0), sigma), np.uint8))

    def duplicated(self, sample: Sample) -> tuple[Sample, NDArray[np.bool_]]:
        """An earlier image once more, with noise that nobody sees."""
        twin = self.others[int(self.rng.integers(len(self.others)))] if self.others else sample
        noise = self.rng.integers(-NOISE, NOISE + 1, twin.image.shape)
        image = (twin.image.astype(int) + noise).clip(0, 255).astype(np.uint8)
        return replace(twin, job=sample.job, image=image), np.zeros(len(twin.instances), bool)

    def unlabelled(self, sample: Sample) -> tuple[Sample, NDArray[np.bool_]]:
        """An object that nobody asked for, without a label."""
        left = ~self._one(sample)
        job = replace(sample.job, asked=tuple(sample.instances.category_id[left].tolist()), layout=None)
        return replace(sample, job=job, instances=sample.instances[left]), np.zeros(int(left.sum()), bool)

    def _again(self, sample: Sample, image: NDArray[np.uint8]) -> tuple[Sample, NDArray[np.bool_]]:
        changed = replace(sample, image=image)
        return replace(changed, instances=self.label(changed, sample.instances.boxes)), np.zeros(
            len(sample.instances), bool
        )

    def _one(self, sample: Sample) -> NDArray[np.bool_]:
        chosen = np.zeros(len(sample.instances), bool)
        chosen[self.rng.integers(len(chosen))] = True
        return chosen


FAULTS: dict[str, Callable[[Planter, Sample], tuple[Sample, NDArray[np.bool_]]]] = {
    "shifted box": Planter.shifted,
    "swapped class": Planter.swapped,
    "cut mask": Planter.cut,
    "blank image": Planter.blanked,
    "blurred image": Planter.blurred,
    "duplicate": Planter.duplicated,
    "unlabelled thing": Planter.unlabelled,
}


def composed(spec: DatasetSpec, count: int, seed: int) -> Iterator[Truth]:
    """Scenes of the spec's size with its classes, one to three things each.

    Raises:
        SpecError: none of its classes can be composed.
    """
    from synthgen.mini import scenes

    ids = {c.name: c.id for c in spec.categories if c.name in scenes.CLASSES}
    if not ids:
        known = listed(scenes.CLASSES)
        message = f"none of them can be composed; takes --truth with a COCO file of your images, or classes of: {known}"
        raise SpecError([Problem("classes", message)])
    among = [scenes.CLASSES.index(name) for name in ids]
    side, made, index = min(spec.height, spec.width), 0, 0
    while made < count:
        scene = scenes.draw(np.random.default_rng([seed, index]), size=side, among=among, occlusion=False)
        index += 1
        if not scene.things:
            continue
        made += 1
        kinds = np.array([ids[scenes.CLASSES[thing.category]] for thing in scene.things], np.int64)
        yield Truth(scene.image, scene.masks, kinds, scenes.caption(scene.background, scene.things))


def from_coco(spec: DatasetSpec, annotations: Path, images: Path, count: int) -> Iterator[Truth]:
    """The first `count` images of a COCO file that have instances of the spec's classes; crowds are left out.

    Raises:
        SpecError: the file cannot be read, has none of the classes, or an image is missing.
    """
    import contextlib
    import io

    from pycocotools.coco import COCO

    from synthgen.plan import phrase

    try:
        with contextlib.redirect_stdout(io.StringIO()):
            coco = COCO(str(annotations))
    except (OSError, ValueError, KeyError, AssertionError) as error:
        raise SpecError([Problem("--truth", f"cannot read {str(annotations)!r}: {error}")]) from error
    wanted = {word: c.id for c in spec.categories for word in (c.name, *c.synonyms)}
    known = {c["id"]: wanted[c["name"]] for c in coco.dataset["categories"] if c["name"] in wanted}
    if not known:
        there = listed(c["name"] for c in coco.dataset["categories"])
        raise SpecError([Problem("--truth", f"has none of the spec's classes; it has: {there}")])
    made = 0
    for image_id in sorted(coco.imgs):
        own = [a for a in coco.imgToAnns[image_id] if a["category_id"] in known and not a.get("iscrowd")]
        if not own or made == count:
            continue
        made += 1
        file = images / coco.imgs[image_id]["file_name"]
        pixels = cv2.imread(str(file), cv2.IMREAD_COLOR)
        if pixels is None:
            raise SpecError([Problem("--images", f"there is no image {str(file)!r}, which {annotations.name} names")])
        kinds = np.array([known[a["category_id"]] for a in own], np.int64)
        masks = np.stack([coco.annToMask(a).astype(bool) for a in own])
        names = {c.id: c.name for c in spec.categories}
        prompt = f"a photo of {phrase([names[k] for k in kinds.tolist()])}"
        yield Truth(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), masks, kinds, prompt)


def plant(spec: DatasetSpec, stages: Stages, truths: Iterable[Truth], share: float, seed: int) -> Iterator[Planted]:
    """Labels truths, and plants one fault into `share` of the images, one kind after another."""
    rng = np.random.default_rng([seed, 1])
    classes = sorted(c.id for c in spec.categories)
    planter = Planter(stages.segmenter, classes, rng)
    kinds = [name for name in FAULTS if name != "swapped class" or len(classes) > 1]
    planted = 0
    for index, truth in enumerate(truths):
        height, width = truth.image.shape[:2]
        boxes = mask_boxes(truth.masks)
        whole = [tuple(int(v) for v in box) for box in boxes]
        job = Job(
            id=index + 1, run=1, round=1, index=index, family=str(index), split="test", prompt=truth.prompt,
            negative_prompt="", slots={}, asked=tuple(truth.category_id.tolist()), layout=tuple(whole),  # type: ignore[arg-type]
            seed=index, height=height, width=width,
        )  # fmt: skip
        bare = Sample(job, truth.image, Instances(truth.masks, boxes, truth.category_id))
        sample = replace(bare, instances=planter.label(bare, boxes))
        both = (sample.instances.masks & truth.masks).sum((1, 2))
        either = (sample.instances.masks | truth.masks).sum((1, 2))
        bad = both < GOOD_IOU * either
        if rng.random() < share and not bad.any():
            kind = kinds[planted % len(kinds)]
            planted += 1
            faulty, wrong = FAULTS[kind](planter, sample)
            yield Planted(faulty, kind, wrong, True)
        else:
            planter.others.append(sample)
            del planter.others[:-64]
            yield Planted(sample, "", bad, bool(bad.any()))


def calibrate(filters: Mapping[str, Filter[Any]], planted: Iterable[Planted], precision: float) -> Calibration:
    """Measures planted images by each filter. `precision`: the share of good labels wanted in what is kept."""
    rows: list[tuple[str, NDArray[np.bool_], bool]] = []
    values: dict[str, list[NDArray[Any]]] = {name: [] for name in filters}
    for item in planted:
        rows.append((item.fault, item.bad, item.bad_image))
        for name, f in filters.items():
            values[name].append(np.asarray(f.measure(item.sample), f.dtype))
    faults = [fault for fault, _, _ in rows]
    clean = np.array([not bad_image for _, _, bad_image in rows])
    failing = {name: _failing(f, values[name]) for name, f in filters.items()}
    together = np.any(list(failing.values()), 0) if failing else np.zeros(len(rows), bool)
    kinds = sorted({fault for fault in faults if fault}, key=list(FAULTS).index)
    has = {kind: np.array([fault == kind for fault in faults]) for kind in kinds}
    measures = []
    for name, f in filters.items():
        auroc, threshold, yielded = dict[str, float](), None, None
        if isinstance(f, ThresholdFilter):
            good, bad = _numbers(f, values[name], rows)
            auroc = {kind: area for kind in kinds if (area := _area(good, bad.get(kind, []))) is not None}
            threshold, yielded = _threshold(f, good, [v for vs in bad.values() for v in vs], precision)
        caught = {kind: float(failing[name][has[kind]].mean()) for kind in kinds}
        measures.append(Measured(name, auroc, caught, _mean(failing[name][clean]), threshold, yielded))
    return Calibration(
        measures,
        {kind: float(together[has[kind]].mean()) for kind in kinds},
        _mean(together[clean]),
        {"": int(clean.sum()), **{kind: int(has[kind].sum()) for kind in kinds}},
        precision,
    )


def auroc(good: Sequence[float], bad: Sequence[float]) -> float:
    """The probability that a good number is above a bad one, ties counting half: the area under the ROC curve (J. A.
    Hanley and B. J. McNeil, Radiology 143, 1982)."""
    import pandas as pd

    ranks = pd.Series([*good, *bad], dtype="float64").rank().to_numpy()
    above = ranks[: len(good)].sum() - len(good) * (len(good) + 1) / 2
    return float(above / (len(good) * len(bad)))


def _failing(f: Filter[Any], values: list[NDArray[Any]]) -> NDArray[np.bool_]:
    """Which images fail, by themselves or by one of their instances."""
    if f.scope == "image":
        failed: NDArray[np.bool_] = f.fails(np.stack(values)) if values else np.zeros(0, bool)
        return failed
    return np.array([bool(f.fails(own).any()) for own in values])


def _margin(f: ThresholdFilter[Any], numbers: NDArray[Any]) -> NDArray[np.float64]:
    """Numbers as they count for a filter, the better the higher. One with both limits has them on both sides."""
    plain = numbers.astype(np.float64)
    low, high = f.config.min, f.config.max
    if low is not None and high is not None:
        margin: NDArray[np.float64] = np.minimum(plain - low, high - plain)
        return margin
    return -plain if high is not None else plain


def _numbers(
    f: ThresholdFilter[Any], values: list[NDArray[Any]], rows: Sequence[tuple[str, NDArray[np.bool_], bool]]
) -> tuple[list[float], dict[str, list[float]]]:
    """Numbers of what is good, and by fault those of what is bad: of instances, or of images."""
    good: list[float] = []
    bad: dict[str, list[float]] = {}
    for own, (fault, wrong, bad_image) in zip(values, rows, strict=True):
        margins = _margin(f, np.atleast_1d(own))
        if f.scope == "image":
            (bad.setdefault(fault, []) if bad_image else good).extend(margins.tolist())
        elif fault and not wrong.any():  # the image is bad, its labels are as they were
            bad.setdefault(fault, []).extend(margins.tolist())
        else:
            good.extend(margins[~wrong].tolist())
            bad.setdefault(fault, []).extend(margins[wrong].tolist())
    return good, bad


def _area(good: Sequence[float], bad: Sequence[float]) -> float | None:
    return auroc(good, bad) if len(good) and len(bad) else None


def _threshold(
    f: ThresholdFilter[Any], good: Sequence[float], bad: Sequence[float], precision: float
) -> tuple[float | None, float | None]:
    """The loosest threshold at which `precision` of what is kept is good, and the share of the good that it keeps."""
    if not good or (f.config.min is not None and f.config.max is not None):
        return None, None
    margins = np.array([*good, *bad])
    is_good = np.arange(len(margins)) < len(good)
    order = np.argsort(-margins, kind="stable")
    kept_good = is_good[order].cumsum()
    share = kept_good / np.arange(1, len(margins) + 1)
    last = np.append(np.diff(margins[order]) != 0, True)  # equal numbers are kept or not together
    enough = np.flatnonzero((share >= precision) & last)
    if not len(enough):
        return None, None
    worst = float(margins[order][enough[-1]])
    return (-worst if f.config.max is not None else worst), float(kept_good[enough[-1]] / len(good))


def _replaced(before: Instances, after: Instances, chosen: NDArray[np.bool_]) -> Instances:
    """`before` with the chosen instances as they are in `after`."""
    return Instances(
        np.where(chosen[:, None, None], after.masks, before.masks),
        np.where(chosen[:, None], after.boxes, before.boxes),
        before.category_id,
        {name: np.where(chosen, after.scores[name], numbers) for name, numbers in before.scores.items()},
    )


def _mean(failed: NDArray[np.bool_]) -> float:
    return float(failed.mean()) if len(failed) else 0.0
