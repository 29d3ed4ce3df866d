"""How well each measure tells good labels from bad: faults are planted into images whose truth is known.

Truth is composed scenes, or a COCO file of the user's. The spec's segmenter labels it by the true boxes, faults go
into a share of the images, and the spec's filters measure all of it as they would measure a run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from synthgen.backends import Filter, Segmenter, ThresholdFilter
from synthgen.errors import BackendError, Problem, SpecError, listed
from synthgen.masks import box_iou, mask_areas, mask_boxes
from synthgen.plan import phrase
from synthgen.spec import DatasetSpec
from synthgen.stages import Stages, request_of
from synthgen.types import Grounding, Instances, Job, Sample
from synthgen.verdicts import EMPTY

GOOD_IOU = 0.75  # of a mask with the true one; below, the label is bad without anybody's planting
POOR = "poor mask"  # the fault that nobody plants
SHIFT = (0.4, 0.7)  # of a box's side
SHIFTS = 3  # tries: a good segmenter finds its object again from a box that lies beside it
BLUR = 0.03  # standard deviation, as a share of the image's shorter side
NOISE = 2  # grey levels by which a duplicate differs, at most
TWINS = 8  # earlier images kept for duplicates; bounds the memory
SEES = 0.75  # AUROC from which a measure is said to see a kind of fault
HELD_OUT = 2**41  # of seeds: the embedded models were trained on scenes of [seed, index]


@dataclass(frozen=True, slots=True)
class Truth:
    """An image, uint8 (H, W, 3), RGB, with all that can be seen of the spec's classes: masks bool (N, H, W), none of
    them empty, category ids (N,), and what they stand on, in a word, or "" where it is not known."""

    image: NDArray[np.uint8]
    masks: NDArray[np.bool_]
    category_id: NDArray[np.int64]
    ground: str = ""


@dataclass(frozen=True, slots=True)
class Truths:
    """So many images, read or drawn as they are asked for, once; `left_out`: the spec's classes that they lack."""

    count: int
    images: Iterator[Truth]
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Planted:
    """A labelled image.

    Attributes:
        fault: "", `POOR`, or a key of `FAULTS`.
        bad: bool (N,), which of its instances are wrong.
        bad_image: whether it is wrong as a whole.
        twin: the place, from 0, of the earlier image that it repeats.
    """

    sample: Sample
    fault: str
    bad: NDArray[np.bool_]
    bad_image: bool
    twin: int | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """What a filter makes of the planted images.

    Attributes:
        name: the filter's, in the spec.
        keeps: "above" or "below" its threshold, "between" two; "unknown" where the spec sets none, and then higher
            counts as better; "" where its numbers have no order.
        auroc: fault -> how well its numbers tell that fault from good labels; no entry where it cannot be said.
        caught: fault -> share of the images with it that fail.
        lost: share of the images without fault that fail.
        sees: the faults with an AUROC of `SEES` or more.
        threshold, yielded: the loosest threshold at which the wanted share of what is kept is good, counting as bad
            only what it sees, and the share of what is good that it keeps; None where there is no such threshold.
    """

    name: str
    keeps: str
    auroc: Mapping[str, float]
    caught: Mapping[str, float]
    lost: float
    sees: tuple[str, ...] = ()
    threshold: float | None = None
    yielded: float | None = None


@dataclass(frozen=True, slots=True)
class Calibration:
    """Of all filters, and `EMPTY` the last, which is a reason without one. `caught` and `lost` are of all together;
    `images`: fault -> how many; `good`: how many have none."""

    measures: Sequence[Measured]
    caught: Mapping[str, float]
    lost: float
    images: Mapping[str, int]
    good: int
    precision: float


@dataclass(frozen=True)
class Planter:
    """Plants faults into well labelled samples; None where one cannot be had of this sample. `names`: category id ->
    class; `others`: (place, sample) of images that have gone before, for duplicates."""

    segmenter: Segmenter[Any]
    names: Mapping[int, str]
    rng: np.random.Generator
    others: list[tuple[int, Sample]] = field(default_factory=list)

    def label(self, image: NDArray[np.uint8], boxes: NDArray[np.float32], ids: NDArray[np.int64]) -> Instances:
        return self.segmenter.segment([image], [Grounding(boxes.astype(np.float32), ids)])[0]

    def shifted(self, sample: Sample, ground: str) -> Planted | None:
        """A box that lies beside its object, and what the segmenter makes of it, if that is not the object."""
        chosen, before = self._one(sample), sample.instances
        height, width = sample.image.shape[:2]
        box = before.boxes[chosen][0]
        for _ in range(SHIFTS):
            moved = _beside(box, self.rng.uniform(*SHIFT, 2), height, width)
            found = self.label(sample.image, moved[None], before.category_id[chosen])
            if (_ious(found.masks, before.masks[chosen]) < GOOD_IOU).all():
                return Planted(replace(sample, instances=_replaced(before, found, chosen)), "", chosen, True)
        return None

    def swapped(self, sample: Sample, ground: str) -> Planted | None:
        """An object under another class's name; the prompt asked for that one."""
        chosen, ids = self._one(sample), sample.instances.category_id.copy()
        other = [c for c in self.names if c != ids[chosen][0]]
        if not other:
            return None
        ids[chosen] = self.rng.choice(other)
        instances = replace(sample.instances, category_id=ids)
        return Planted(replace(sample, job=self._asked(sample.job, ids, ground), instances=instances), "", chosen, True)

    def cut(self, sample: Sample, ground: str) -> Planted | None:
        """A mask of which the left, right, upper or lower half is missing. Of its scores only `box_iou` follows."""
        chosen, before = self._one(sample), sample.instances
        i = int(chosen.argmax())
        masks, boxes, scores = before.masks.copy(), before.boxes.copy(), dict(before.scores)
        places = np.argwhere(masks[i])
        order = places[:, self.rng.integers(2)].argsort(kind="stable")[:: self.rng.choice((-1, 1))]
        ys, xs = places[order[: len(order) // 2]].T
        masks[i, ys, xs] = False
        boxes[i] = mask_boxes(masks[i : i + 1])[0]
        if "box_iou" in scores and sample.job.layout:
            scores["box_iou"] = scores["box_iou"].copy()
            scores["box_iou"][i] = box_iou(boxes[i : i + 1], np.array(sample.job.layout[i : i + 1], np.float32))[0, 0]
        return Planted(replace(sample, instances=Instances(masks, boxes, before.category_id, scores)), "", chosen, True)

    def blanked(self, sample: Sample, ground: str) -> Planted | None:
        """One flat colour."""
        flat = np.empty_like(sample.image)
        flat[:] = sample.image.mean((0, 1)).astype(np.uint8)
        return self._again(sample, flat)

    def blurred(self, sample: Sample, ground: str) -> Planted | None:
        sigma = BLUR * min(sample.image.shape[:2])
        return self._again(sample, np.asarray(cv2.GaussianBlur(sample.image, (0, 0), sigma), np.uint8))

    def duplicated(self, sample: Sample, ground: str) -> Planted | None:
        """An earlier image once more, with noise that nobody sees."""
        if not self.others:
            return None
        place, twin = self.others[int(self.rng.integers(len(self.others)))]
        noise = self.rng.integers(-NOISE, NOISE + 1, twin.image.shape)
        image = (twin.image.astype(int) + noise).clip(0, 255).astype(np.uint8)
        job = replace(twin.job, id=sample.job.id, index=sample.job.index, seed=sample.job.seed)
        return Planted(replace(twin, job=job, image=image), "", np.zeros(len(twin.instances), bool), True, place)

    def unlabelled(self, sample: Sample, ground: str) -> Planted | None:
        """An object that nobody asked for, without a label."""
        instances = sample.instances[~self._one(sample)]
        job = self._asked(replace(sample.job, asked=(), layout=None), instances.category_id, ground)
        return Planted(replace(sample, job=job, instances=instances), "", np.zeros(len(instances), bool), True)

    def _again(self, sample: Sample, image: NDArray[np.uint8]) -> Planted:
        """The sample with another image, labelled anew."""
        before = sample.instances
        boxes = before.boxes if sample.job.layout is None else np.array(sample.job.layout, np.float32)
        instances = self.label(image, boxes, before.category_id)
        return Planted(replace(sample, image=image, instances=instances), "", np.zeros(len(before), bool), True)

    def _asked(self, job: Job, ids: NDArray[np.int64], ground: str) -> Job:
        """As if the prompt had asked for these classes."""
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
    said = " on ".join(part for part in (phrase(list(names)), ground) if part)
    return f"a photo of {said}" if said else "a photo"


def prepared(spec: DatasetSpec) -> Stages:
    """The spec's backends, of which the segmenter and the filters have been checked: nothing else is used.

    Raises:
        SpecError: with every problem found.
    """
    stages, request = Stages.of(spec), request_of(spec)
    problems = [
        Problem(key + problem.field, problem.message) if problem.field.startswith(".") else problem
        for key, stage in stages.named().items()
        if key == "segmenter" or key.startswith("filters.")
        for problem in stage.check(request)
    ]
    if problems:
        raise SpecError(problems)
    return stages


def composed(spec: DatasetSpec, count: int, seed: int) -> Truths:
    """Square scenes of the spec's shorter side with its classes, one to three things each.

    Raises:
        SpecError: none of its classes can be composed.
    """
    from synthgen.mini import scenes

    ids = {word: c.id for c in spec.categories for word in (c.name, *c.synonyms) if word in scenes.CLASSES}
    if not ids:
        known = listed(scenes.CLASSES)
        message = f"none of them can be composed; takes --truth with a COCO file of your images, or classes of: {known}"
        raise SpecError([Problem("classes", message)])
    among = [scenes.CLASSES.index(name) for name in ids]

    def drawn() -> Iterator[Truth]:
        side, made, index = min(spec.height, spec.width), 0, 0
        while made < count:
            rng = np.random.default_rng([HELD_OUT, seed, index])
            scene = scenes.draw(rng, size=side, among=among, occlusion=False)
            index += 1
            if scene.things:
                made += 1
                kinds = np.array([ids[scenes.CLASSES[thing.category]] for thing in scene.things], np.int64)
                yield Truth(scene.image, scene.masks, kinds, scene.background)

    return Truths(count, drawn(), tuple(c.name for c in spec.categories if c.id not in ids.values()))


def from_coco(spec: DatasetSpec, annotations: Path, images: Path, count: int) -> Truths:
    """The first `count` images of a COCO file that have instances of the spec's classes. Crowds and other classes are
    left out; names are compared without regard to case, synonyms too.

    Raises:
        SpecError: the file cannot be read, has none of the classes, or an image is missing. What is wrong with one
            image is found when it is read.
    """
    import contextlib
    import io

    from pycocotools.coco import COCO

    try:
        with contextlib.redirect_stdout(io.StringIO()):
            coco = COCO(str(annotations))
        names = {c["id"]: str(c["name"]) for c in coco.dataset["categories"]}
        wanted = {_plain(word): c.id for c in spec.categories for word in (c.name, *c.synonyms)}
        known = {own: wanted[_plain(name)] for own, name in names.items() if _plain(name) in wanted}
        labelled: dict[Any, list[dict[str, Any]]] = {}
        for image_id in sorted(coco.imgs):
            for a in coco.imgToAnns[image_id]:
                if a["category_id"] in known and not a.get("iscrowd"):
                    labelled.setdefault(image_id, []).append(a)
        files = {image_id: images / coco.imgs[image_id]["file_name"] for image_id in list(labelled)[:count]}
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise SpecError([Problem("--truth", f"cannot read {str(annotations)!r}: {error}")]) from error
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        message = f"{str(annotations)!r} is no COCO file with `images`, `annotations` and `categories`"
        raise SpecError([Problem("--truth", f"{message}: {type(error).__name__}: {error}")]) from error
    if not labelled:
        there = listed(names.values()) or "none"
        raise SpecError([Problem("--truth", f"has no instance of the spec's classes; its categories: {there}")])
    for file in files.values():
        if not file.is_file():
            raise SpecError([Problem("--images", f"there is no image {str(file)!r}, which {annotations.name} names")])

    def read() -> Iterator[Truth]:
        for image_id, file in files.items():
            image, own = _read(file), labelled[image_id]
            try:
                masks = np.stack([coco.annToMask(a).astype(bool) for a in own])
            except (KeyError, TypeError, ValueError, IndexError) as error:
                message = f"the segmentations of image {image_id!r} in {annotations.name} cannot be read"
                raise SpecError([Problem("--truth", f"{message}: {type(error).__name__}: {error}")]) from error
            if masks.shape[1:] != image.shape[:2]:
                height, width = image.shape[:2]
                said = f"{masks.shape[2]}x{masks.shape[1]} px in {annotations.name}"
                raise SpecError([Problem("--images", f"{str(file)!r} has {width}x{height} px, and {said}")])
            kinds, visible = np.array([known[a["category_id"]] for a in own], np.int64), masks.any((1, 2))
            if visible.any():
                yield Truth(image, masks[visible], kinds[visible])

    seen = {known[a["category_id"]] for image_id in files for a in labelled[image_id]}
    return Truths(len(files), read(), tuple(c.name for c in spec.categories if c.id not in seen))


def plant(spec: DatasetSpec, segmenter: Segmenter[Any], truths: Truths, share: float, seed: int) -> Iterator[Planted]:
    """Labels truths by their boxes, and plants one fault into `share` of those that are labelled well, one kind after
    another."""
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
        bad = _ious(sample.instances.masks, truth.masks) < GOOD_IOU
        if bad.any():
            yield Planted(sample, POOR, bad, True)
        elif rng.random() < share and (planted := _first(planter, queue, sample, truth.ground)):
            yield planted
        else:
            planter.others.append((index, sample))
            del planter.others[:-TWINS]
            yield Planted(sample, "", bad, False)


def _first(planter: Planter, queue: list[str], sample: Sample, ground: str) -> Planted | None:
    """The first fault of the queue that can be had of the sample; it goes to the queue's end."""
    for kind in list(queue):
        if planted := FAULTS[kind](planter, sample, ground):
            queue.remove(kind)
            queue.append(kind)
            return replace(planted, fault=kind)
    return None


def calibrate(filters: Mapping[str, Filter[Any]], planted: Iterable[Planted], precision: float) -> Calibration:
    """Measures planted images by each filter, one at a time; numbers only are kept. `precision`: the share of good
    wanted in what is kept.

    Raises:
        BackendError: a filter's numbers have not the shape that its scope asks for.
    """
    rows: list[_Row] = []
    values: dict[str, list[NDArray[Any]]] = {name: [] for name in filters}
    for index, item in enumerate(planted):
        empty = bool((mask_areas(item.sample.instances.masks) == 0).any())
        rows.append(_Row(item.fault, item.bad, item.bad_image, index if item.twin is None else item.twin, empty))
        for name, f in filters.items():
            values[name].append(_measured(name, f, item.sample))
    clean = np.array([not row.bad_image for row in rows], bool)
    twins = np.array([row.twin for row in rows], int)
    has = {kind: at for kind in KINDS if (at := np.array([row.fault == kind for row in rows], bool)).any()}
    failing = {name: _failing(f, values[name]) for name, f in filters.items()}
    failing[EMPTY] = np.array([row.empty for row in rows], bool)
    together = _together(filters, values, failing)

    def caught(failed: NDArray[np.bool_]) -> dict[str, float]:
        # Of an image and its twin one may stay, so it is enough that either fails.
        either = failed | failed[twins]
        return {kind: _mean(either[at]) for kind, at in has.items()}

    measures = []
    for name, failed in failing.items():
        plain = Measured(name, "", {}, caught(failed), _mean(failed[clean]))
        if isinstance(own := filters.get(name), ThresholdFilter):
            plain = _judged(own, plain, values[name], rows, precision)
        measures.append(plain)
    images = {kind: int(at.sum()) for kind, at in has.items()}
    return Calibration(measures, caught(together), _mean(together[clean]), images, int(clean.sum()), precision)


def auroc(good: Sequence[float], bad: Sequence[float]) -> float:
    """The probability that a good number is above a bad one, ties counting half: the area under the ROC curve (J. A.
    Hanley and B. J. McNeil, Radiology 143, 1982). Neither may be empty."""
    import pandas as pd

    ranks = pd.Series([*good, *bad], dtype="float64").rank().to_numpy()
    above = ranks[: len(good)].sum() - len(good) * (len(good) + 1) / 2
    return float(above / (len(good) * len(bad)))


@dataclass(frozen=True, slots=True)
class _Row:
    """What is kept of a planted image; `twin`: its own place where it repeats none."""

    fault: str
    bad: NDArray[np.bool_]
    bad_image: bool
    twin: int
    empty: bool


def _measured(name: str, f: Filter[Any], sample: Sample) -> NDArray[Any]:
    own, n = np.asarray(f.measure(sample), f.dtype), len(sample.instances)
    if own.shape != ((own.size,) if f.vector else () if f.scope == "image" else (n,)):
        raise BackendError(f"filters.{name}: measured an array of shape {own.shape} for {n} instances")
    return own


def _failing(f: Filter[Any], values: list[NDArray[Any]]) -> NDArray[np.bool_]:
    """Which images fail, by themselves or by one of their instances."""
    if f.scope == "instance":
        return np.array([bool(f.fails(own).any()) for own in values], bool)
    return f.fails(np.stack(values)) if values else np.zeros(0, bool)


def _together(
    filters: Mapping[str, Filter[Any]], values: Mapping[str, list[NDArray[Any]]], failing: Mapping[str, Any]
) -> NDArray[np.bool_]:
    """Which images fail by any filter. As in a run, those of the whole dataset see only what passes all before."""
    failed = np.zeros(len(failing[EMPTY]), bool)
    for name in failing:
        if name not in filters or not filters[name].whole_dataset:
            failed |= failing[name]
    for name, f in filters.items():
        if f.whole_dataset and not failed.all():
            passing = np.flatnonzero(~failed)
            failed[passing[f.fails(np.stack(values[name])[passing])]] = True
    return failed


def _judged(
    f: ThresholdFilter[Any], plain: Measured, values: list[NDArray[Any]], rows: Sequence[_Row], precision: float
) -> Measured:
    """With what only ordered numbers tell."""
    good, bad = _numbers(f, values, rows)
    areas = {kind: auroc(good, bad[kind]) for kind in KINDS if good and bad.get(kind)}
    sees = tuple(kind for kind, area in areas.items() if area >= SEES)
    keeps, threshold, yielded = _keeps(f), None, None
    if sees and keeps != "between":
        threshold, yielded = _threshold(good, [v for kind in sees for v in bad[kind]], precision)
        threshold = -threshold if threshold is not None and keeps == "below" else threshold
    return replace(plain, keeps=keeps, auroc=areas, sees=sees, threshold=threshold, yielded=yielded)


def _keeps(f: ThresholdFilter[Any]) -> str:
    low, high = f.config.min is not None, f.config.max is not None
    return ("between" if high else "above") if low else ("below" if high else "unknown")


def _margin(f: ThresholdFilter[Any], numbers: NDArray[Any]) -> NDArray[np.float64]:
    """Numbers as they count for a filter, the better the higher. One with both limits has them on both sides; what
    could not be measured (NaN) is the worst."""
    plain = numbers.astype(np.float64)
    keeps = _keeps(f)
    margin = -plain if keeps == "below" else plain
    if keeps == "between":
        margin = np.minimum(plain - f.config.min, f.config.max - plain)
    return np.where(np.isnan(plain), -np.inf, margin)


def _numbers(
    f: ThresholdFilter[Any], values: list[NDArray[Any]], rows: Sequence[_Row]
) -> tuple[list[float], dict[str, list[float]]]:
    """Margins of what is good, and by fault those of what is bad: of instances, or of images."""
    good: list[float] = []
    bad: dict[str, list[float]] = {}
    for own, row in zip(values, rows, strict=True):
        margins = _margin(f, np.atleast_1d(own))
        # Of a bad image whose labels are as they were, all of it counts as bad.
        own_bad = f.scope == "instance" and row.bad.any()
        wrong = row.bad if own_bad else np.full(len(margins), row.bad_image)
        good.extend(margins[~wrong].tolist())
        bad.setdefault(row.fault, []).extend(margins[wrong].tolist())
    return good, bad


def _threshold(good: Sequence[float], bad: Sequence[float], precision: float) -> tuple[float | None, float | None]:
    """The loosest margin at which `precision` of what is kept is good, and the share of the good that it keeps."""
    margins = np.array([*good, *bad])
    is_good = np.arange(len(margins)) < len(good)
    order = np.argsort(-margins, kind="stable")
    ordered, kept_good = margins[order], is_good[order].cumsum()
    share = kept_good / np.arange(1, len(margins) + 1)
    last = np.append(ordered[1:] != ordered[:-1], True)  # equal numbers are kept or not together
    enough = np.flatnonzero((share >= precision) & last & np.isfinite(ordered))
    if not len(enough):
        return None, None
    return float(ordered[enough[-1]]), float(kept_good[enough[-1]] / len(good))


def _beside(box: NDArray[np.float32], share: NDArray[np.float64], height: int, width: int) -> NDArray[np.float32]:
    """A box (4,), xyxy px, moved by shares (x, y) of its sides, towards the side with more room, and cut to the image:
    of a box within it something is always left."""
    low, high = box[:2].astype(float), box[2:].astype(float)
    limits = np.array([width, height])
    move = share * (high - low) * np.where(low + high < limits, 1, -1)
    return np.concatenate([low + move, high + move]).clip(0, np.tile(limits, 2)).astype(np.float32)


def _replaced(before: Instances, after: Instances, chosen: NDArray[np.bool_]) -> Instances:
    """`before` with the chosen instance as it is in `after`, which has no other."""
    masks, boxes, scores = before.masks.copy(), before.boxes.copy(), dict(before.scores)
    masks[chosen], boxes[chosen] = after.masks, after.boxes
    for name, numbers in after.scores.items():
        if name in scores:
            scores[name] = scores[name].copy()
            scores[name][chosen] = numbers
    return Instances(masks, boxes, before.category_id, scores)


def _ious(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Of each pair, (N, H, W) and (N, H, W) -> (N,)."""
    both: NDArray[np.float64] = (a & b).sum((1, 2)) / np.maximum((a | b).sum((1, 2)), 1)
    return both


def _read(file: Path) -> NDArray[np.uint8]:
    """uint8 (H, W, 3), RGB, as it lies in the file: COCO's truth is about that, not about what a camera's tag says."""
    try:
        with Image.open(file) as opened:
            return np.array(opened.convert("RGB"))
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise SpecError([Problem("--images", f"cannot read {str(file)!r}: {error}")]) from error


def _plain(word: str) -> str:
    return " ".join(word.lower().split())


def _mean(failed: NDArray[np.bool_]) -> float:
    return float(failed.mean()) if len(failed) else 0.0
