"""What annotators changed in the labels of a run: an annotated file, compared with the labels that its export had."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from synthgen.base.wording import shown
from synthgen.errors import RunError, nearest
from synthgen.judging.reviews import Review, Reviews, Verdict
from synthgen.masks import box_iou, decode_rle, encode_rle, mask_iou, paired_mask_iou
from synthgen.pipeline.build import Build
from synthgen.review.annotated import AnnotatedImage, AnnotatedObject, AnnotationError
from synthgen.review.cutter import Cutter
from synthgen.review.exported import ExportedImage, Label, exported

SAME_IOU = 0.5  # An object without a number is the label with which it has the highest IoU, and at least this.
CUT_IOU = 0.99  # A mask that was cut out of the same box again may differ in some pixels.
SAME_PX = 1.0  # A box is unchanged if none of its sides has moved by more.

Missing = Literal["delete", "keep"]


@dataclass(frozen=True, slots=True)
class Edits:
    """What a file changes.

    Attributes:
        images: how many images the file has.
        changed: how many of them it changes.
        reviews: its changes, without those that the log has already.
        labels: kind of change -> how many labels have it.
        cut: how many boxes became masks.
    """

    images: int
    changed: int
    reviews: tuple[Review, ...]
    labels: Mapping[str, int]
    cut: int

    def lines(self) -> Iterator[str]:
        """What a person reads of it: a line for each kind of change."""
        yield f"images of the file: {self.images:,}, changed: {self.changed:,}"
        for kind, count in self.labels.items():
            yield f"{_counted(count, 'label')}: {kind}"
        if self.cut:
            yield f"{_counted(self.cut, 'box', 'boxes')} cut out by the run's segmenter"


def edits_of(
    build: Build, images: Iterable[AnnotatedImage], standing: Reviews, by: str = "", missing: Missing = "delete"
) -> Edits:
    """Compares annotated images with the labels of a run as its last judging left them, which are those that its
    exports have. Images that are not in the file are not concerned.

    Args:
        standing: the verdicts that hold.
        by: who annotated, where the file does not say.
        missing: whether a label that is not in the file was deleted, or is not concerned.

    Raises:
        AnnotationError: the file has an image, a class or a mask that the run cannot have.
        RunError: the run has not been judged yet, or a record is damaged.
    """
    if not build.run.paths.verdicts.is_file():
        raise RunError(f"{build.run.root} has not been judged yet; run the spec first")
    given: dict[int, AnnotatedImage] = {}
    for image in images:
        if other := given.get(image.image_id):
            raise AnnotationError(
                f"{image.where}: image {image.image_id} is in the file twice; {other.where} has it too"
            )
        given[image.image_id] = image
    comparison = _Comparison(build, by, missing)
    for own in exported(build, given, standing):
        comparison.add(given[own.image_id], own)
    return Edits(len(given), comparison.changed, tuple(comparison.reviews), comparison.labels, comparison.cutter.count)


@dataclass(frozen=True, slots=True)
class _Drawn:
    """An object of the file, with what it is in the run.

    Attributes:
        rle: the counts of its mask; "" for a box that is not cut out yet.
        label: the label that it was; None if it was added.
    """

    object: AnnotatedObject
    category_id: int
    rle: str
    label: Label | None = None


@dataclass(frozen=True, slots=True)
class _Change:
    """A review in the making. `kinds`: what people read of it."""

    kinds: Sequence[str]
    instance: int
    verdict: Verdict
    category_id: int | None
    rle: str | None


class _Comparison:
    """Compares images one after another. Attributes: see `Edits`."""

    def __init__(self, build: Build, by: str, missing: Missing) -> None:
        self._height, self._width = build.spec.height, build.spec.width
        self._by, self._missing = by, missing
        self._names = {category.id: category.name for category in build.spec.categories}
        self._ids = {category.name: category.id for category in build.spec.categories}
        self._now = datetime.now(UTC).isoformat(timespec="seconds")
        self.cutter = Cutter(build)
        self.reviews: list[Review] = []
        self.labels: Counter[str] = Counter()
        self.changed = 0

    def add(self, image: AnnotatedImage, own: ExportedImage) -> None:
        if image.size not in {None, (self._height, self._width)}:
            height, width = image.size or (0, 0)
            run = f"images of the run have {self._width}x{self._height} px"
            raise AnnotationError(f"{image.where}: image {own.image_id} has {width}x{height} px there, and {run}")
        drawn = [self._drawn(one, image, own) for one in image.objects]
        drawn = self._paired(self._numbered(drawn, image, own), image, own)
        drawn = self._cut(self._unchanged(drawn, image), image, own)
        found = []
        for change in (*_changes(drawn, own), *self._deletions(drawn, image, own)):
            review = Review(
                own.image_id, change.instance, change.verdict, change.category_id, "import", own.digest,
                image.at or self._now, (image.by or self._by)[:200], change.rle,
            )  # fmt: skip
            earlier = own.reviews.get(change.instance)
            if not (earlier and earlier.says(review)):
                found.append(review)
                self.labels.update(change.kinds)
        if found:
            self.changed += 1
            self.reviews += found
            if None not in own.reviews:  # A verdict of the page on the whole image stays.
                self.reviews.append(replace(found[0], instance=None, verdict="corrected", category_id=None, rle=None))

    def _drawn(self, one: AnnotatedObject, image: AnnotatedImage, own: ExportedImage) -> _Drawn:
        where = one.where or image.where
        if (category_id := self._ids.get(one.category)) is None:
            near = nearest(one.category, self._ids)
            raise AnnotationError(f"{where}: the spec has no class {shown(one.category)}{near}")
        if one.rle and any(one.rle == self._rle(label.now[1]) for label in own.labels.values()):
            return _Drawn(one, category_id, str(one.rle["counts"]))
        if one.rle is None and one.box_xyxy is None:
            raise AnnotationError(f"{where}: it has neither a mask nor a box")
        if one.rle is None:
            return _Drawn(one, category_id, "")
        try:
            mask = decode_rle([one.rle], self._height, self._width)
        except (ValueError, LookupError) as error:
            raise AnnotationError(f"{where}: the mask does not fit image {own.image_id}: {error}") from error
        if not mask.any():
            raise AnnotationError(f"{where}: the mask has no pixel")
        return _Drawn(one, category_id, encode_rle(mask)[0]["counts"])  # A mask has several RLEs; this one is usual.

    def _rle(self, counts: str) -> dict[str, object]:
        return {"size": [self._height, self._width], "counts": counts}

    def _masks(self, counts: Iterable[str]) -> NDArray[np.bool_]:
        try:
            return decode_rle([self._rle(one) for one in counts], self._height, self._width)
        except ValueError as error:
            raise RunError(f"a mask of the run does not fit its image: {error}; verify the run") from error

    def _numbered(self, drawn: Sequence[_Drawn], image: AnnotatedImage, own: ExportedImage) -> list[_Drawn]:
        """The objects with the labels whose numbers they have."""
        found, taken = list(drawn), set[int]()
        for place, one in enumerate(drawn):
            number = one.object.instance
            if image.is_numbered and number is not None and number in own.labels and number not in taken:
                found[place] = replace(one, label=own.labels[number])
                taken.add(number)
        return found

    def _paired(self, drawn: Sequence[_Drawn], image: AnnotatedImage, own: ExportedImage) -> list[_Drawn]:
        """The objects, the others too with the labels that they were: by IoU, the highest first.

        A tool that keeps numbers gives none to what people add. When the file is read once more, the run may have these
        labels already; so they are paired too.
        """
        taken = {one.label.instance for one in drawn if one.label}
        free = [
            label
            for label in own.labels.values()
            if label.instance not in taken
            and label.fate not in {"dropped", "removed"}
            and (label.made is None or not image.is_numbered)
        ]
        found = list(drawn)
        for parts in ((0, 1), (1,)):  # Equal masks need no IoU. Of several, the one of the same class is it.
            for place, one in enumerate(found):
                given = (one.category_id, one.rle)
                same = (lb for lb in free if all(lb.now[k] == given[k] for k in parts) and lb.instance not in taken)
                if not one.label and (label := next(same, None)):
                    found[place] = replace(one, label=label)
                    taken.add(label.instance)
        free = [label for label in free if label.instance not in taken]
        rest = [place for place, one in enumerate(found) if not one.label]
        ious = self._ious([drawn[place] for place in rest], free)
        for a, b in zip(*np.unravel_index(np.argsort(-ious, axis=None, kind="stable"), ious.shape), strict=True):
            if ious[a, b] >= SAME_IOU and not found[rest[a]].label and free[b].instance not in taken:
                found[rest[a]] = replace(drawn[rest[a]], label=free[b])
                taken.add(free[b].instance)
        return found

    def _ious(self, drawn: Sequence[_Drawn], labels: Sequence[Label]) -> NDArray[np.float32]:
        """(D, L): of masks, or of boxes for an object that has only a box."""
        ious = np.zeros((len(drawn), len(labels)), np.float32)
        if not ious.size:
            return ious
        known = self._masks(label.now[1] for label in labels)
        with_mask = [place for place, one in enumerate(drawn) if one.rle]
        ious[with_mask] = mask_iou(self._masks(drawn[place].rle for place in with_mask), known)
        for place, one in enumerate(drawn):
            if not one.rle:
                ious[place] = box_iou(self._box(one)[None], np.array([label.box for label in labels], np.float32))[0]
        return ious

    def _unchanged(self, drawn: Sequence[_Drawn], image: AnnotatedImage) -> list[_Drawn]:
        """The objects; a mask or a box that is as good as unchanged becomes the label's own mask."""
        found = list(drawn)
        for place, one in enumerate(drawn):
            if not one.label or one.rle == one.label.now[1]:
                continue
            if one.rle:
                is_same = image.tolerance_iou < 1 and self._iou(one.rle, one.label) >= image.tolerance_iou
            else:
                is_same = np.abs(np.array(one.label.box, np.float32) - self._box(one)).max() <= SAME_PX
            if is_same:
                found[place] = replace(one, rle=one.label.now[1])
        return found

    def _cut(self, drawn: Sequence[_Drawn], image: AnnotatedImage, own: ExportedImage) -> list[_Drawn]:
        """The objects, with masks for the boxes that are left."""
        found, boxes = list(drawn), [place for place, one in enumerate(drawn) if not one.rle]
        if not boxes:
            return found
        prompts, ids = [self._box(drawn[place]) for place in boxes], [drawn[place].category_id for place in boxes]
        wheres = {place: drawn[place].object.where or image.where for place in boxes}
        for where, (x0, y0, x1, y1) in zip(wheres.values(), prompts, strict=True):
            if x0 >= x1 or y0 >= y1:
                raise AnnotationError(f"{where}: the box has no area within the image")
        for place, rle in zip(boxes, self.cutter.cut(own.shard, own.image_id, prompts, ids), strict=True):
            if not self._masks([rle]).any():
                raise AnnotationError(
                    f"{wheres[place]}: the segmenter finds no object in the box; draw its mask instead"
                )
            found[place] = replace(drawn[place], rle=rle)
        # The box of a mask that was cut out is not the box that was drawn. So these are paired by their masks.
        found = self._paired(found, image, own)
        for place in boxes:
            label = found[place].label
            if label and self._iou(found[place].rle, label) >= CUT_IOU:
                found[place] = replace(found[place], rle=label.now[1])
        return found

    def _box(self, one: _Drawn) -> NDArray[np.float32]:
        """The box of an object that has no mask, within the image."""
        sides = np.array([self._width, self._height] * 2, np.float32)
        return np.clip(np.array(one.object.box_xyxy, np.float32), np.float32(0), sides)

    def _iou(self, rle: str, label: Label) -> float:
        return float(paired_mask_iou(self._masks([rle]), self._masks([label.now[1]]))[0])

    def _deletions(self, drawn: Sequence[_Drawn], image: AnnotatedImage, own: ExportedImage) -> Iterator[_Change]:
        there = {one.label.instance for one in drawn if one.label}
        for number, label in own.labels.items():
            was_shown = label.fate in {"kept", "ignored", "rejected"}
            was_shown &= image.shown is None or number in image.shown
            was_shown &= image.classes is None or self._names[label.now[0]] in image.classes
            if was_shown and number not in there and self._missing == "delete":
                yield _Change(["removed"], number, "removed", *((None, None) if label.made else label.now))


def _changes(drawn: Sequence[_Drawn], own: ExportedImage) -> Iterator[_Change]:
    """What is different in the objects that are in the file."""
    added = max((own.made - 1, *own.labels)) + 1
    for one in drawn:
        label, ignored = one.label, one.object.ignore
        if label is None:
            yield _Change(["added"], added, "ignored" if ignored else "added", one.category_id, one.rle)
            added += 1
            continue
        was_ignored = label.fate == "ignored"
        ignored = was_ignored if ignored is None else ignored
        kinds = ["another class"] * (one.category_id != label.now[0]) + ["another mask"] * (one.rle != label.now[1])
        if ignored != was_ignored:
            kinds.append("to be ignored" if ignored else "no longer to be ignored")
        if not kinds:
            continue
        made = label.made or (0, "")
        category_id = one.category_id if one.category_id != made[0] else None
        rle = one.rle if one.rle != made[1] else None
        verdict: Verdict = "bad_mask" if rle is not None else "accept"
        verdict = "wrong_class" if category_id is not None else verdict
        verdict = "added" if label.made is None else verdict
        yield _Change(kinds, label.instance, "ignored" if ignored else verdict, category_id, rle)


def _counted(count: int, one: str, many: str = "") -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"
